"""What an answer of a hosted model cost, by the prices that genai-prices lists of each provider."""


def price_by_list(
    model: str, *, prompt_tokens: int, completion_tokens: int, url: str | None = None, provider: str | None = None
) -> float | None:
    """Return what an answer cost in USD, or None if the list has no such model of that provider.

    The provider is known by the address of its API or by its name there. Prices are those of the installed version of
    genai-prices (github.com/pydantic/genai-prices); nothing is downloaded.
    """
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens)
    try:
        if url is not None:
            return float(calc_price(usage, model, provider_api_url=url).total_price)
        return float(calc_price(usage, model, provider_id=provider).total_price)
    except LookupError:
        return None
