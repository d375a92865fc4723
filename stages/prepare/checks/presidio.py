"""Personal data as Presidio finds it (an extra), beside our own patterns: people's names, numbers written at home.

Names need a spaCy model of the language, which nobody publishes on PyPI; without one its patterns alone are looked for.
Nothing is fetched: Presidio's own default would download a model, and its finders of addresses a list of domains.
"""

from functools import cached_property
from importlib.util import find_spec
from typing import Any

from tuneline.core.errors import BadRequest
from tuneline.stages.prepare.checks.language import language_of
from tuneline.stages.prepare.checks.personal_data import Found, found_in, masked

REGIONS = {"en": ("US", "GB", "AU"), "it": ("IT",), "id": ("ID",)}
"""Languages that are told apart, each with where its phone numbers are from; other text is taken for the first."""
LOOKED_FOR = {
    "PERSON": "a person's name",
    "PHONE_NUMBER": "a phone number",
    "IP_ADDRESS": "an IP address",
    "MAC_ADDRESS": "a MAC address",
    "CRYPTO": "a cryptocurrency address",
    "MEDICAL_LICENSE": "a medical licence",
    "US_SSN": "a US social security number",
    "US_ITIN": "a US taxpayer number",
    "US_PASSPORT": "a US passport",
    "UK_NHS": "a UK health service number",
    "IT_VAT_CODE": "an Italian VAT number",
    "IT_PASSPORT": "an Italian passport",
    "IT_IDENTITY_CARD": "an Italian identity card",
    "IT_DRIVER_LICENSE": "an Italian driving licence",
}
"""Of what Presidio knows; dates, places and addresses of pages are in every text, the rest our own patterns find."""
FEWEST = 0.4
"""Presidio's score: below it, what looks like a passport is as likely any other number."""
SIZES = ("lg", "md", "sm", "trf")
"""Of spaCy's models, in the order they are taken if several are installed."""


class Presidio:
    """Finds what `personal` does not; its analyzer is made at the first text.

    Raises:
        BadRequest: it is not installed.
    """

    def __init__(self) -> None:
        if find_spec("presidio_analyzer") is None:
            raise BadRequest(
                "data.personal: presidio: needs Presidio; `pip install 'tuneline[personal]'`, "
                "or `personal: regex`, which needs nothing"
            )
        self.without_names: set[str] = set()
        """Languages of texts in which names could not be looked for, for want of a model."""

    def found_in(self, text: str) -> list[Found]:
        """What `personal` finds not, in order, without overlaps."""
        language = language_of(text) or "en"
        language = language if language in REGIONS else "en"
        if self._models[language] is None:
            self.without_names.add(language)
        taken = [(found.start, found.end) for found in found_in(text)]
        found = []
        results = self._analyzer.analyze(text, language, entities=list(LOOKED_FOR), score_threshold=FEWEST)
        for one in sorted(results, key=lambda one: (-one.score, one.start)):
            if not any(start < one.end and one.start < end for start, end in taken):
                taken.append((one.start, one.end))
                shown = f"{text[one.start : one.end][:4]}…"
                found.append(Found("personal_data", LOOKED_FOR[one.entity_type], one.start, one.end, shown))
        return sorted(found, key=lambda one: one.start)

    def first_of_each(self, text: str) -> dict[str, Found]:
        """The first finding of each kind."""
        return {found.kind: found for found in reversed(self.found_in(text))}

    def masked(self, text: str) -> str:
        """The text with each finding replaced by its kind in brackets, those of `personal` too."""
        if " " not in text:  # a role, a tool, a key: a model for names takes many a word for one
            return masked(text)
        for one in reversed(self.found_in(text)):
            text = f"{text[: one.start]}[{one.kind.split(' ', 1)[1]}]{text[one.end :]}"
        return masked(text)

    @cached_property
    def _models(self) -> dict[str, str | None]:
        """The spaCy model of each language that is installed."""
        import spacy.util

        installed = spacy.util.get_installed_models()
        return {language: _best(language, installed) for language in REGIONS}

    @cached_property
    def _analyzer(self) -> Any:
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import PhoneRecognizer

        models = self._models
        engine = SpacyNlpEngine([{"lang_code": language, "model_name": models[language]} for language in REGIONS])
        engine.nlp = {
            language: spacy.load(model) if model else spacy.blank(language) for language, model in models.items()
        }
        registry = RecognizerRegistry(supported_languages=list(REGIONS))
        registry.load_predefined_recognizers(languages=list(REGIONS), nlp_engine=engine)
        for network in ("EmailRecognizer", "UrlRecognizer", "PhoneRecognizer"):
            registry.remove_recognizer(network)
        for language, regions in REGIONS.items():
            registry.add_recognizer(PhoneRecognizer(supported_language=language, supported_regions=regions))
        return AnalyzerEngine(registry, engine, supported_languages=list(REGIONS))


def _best(language: str, installed: list[str]) -> str | None:
    wanted = [f"{language}_core_{kind}_{size}" for size in SIZES for kind in ("web", "news")]
    return next((name for name in [*wanted, "xx_ent_wiki_sm"] if name in installed), None)
