"""A tiny random Mistral, and the chat template of Mistral 7B Instruct 0.3 as the hub has it, in words of our own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTROL = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
CONTROL += ["[/TOOL_RESULTS]"]
AS_PUBLISHED = """
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set turns = messages if system is none else messages[1:] %}
{%- set last = (turns | selectattr('role', 'equalto', 'user') | list)[-1] %}
{%- macro nine(id) %}{{ id if id | length == 9 else raise_exception('an id has 9 characters') }}{% endmacro %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn.role == 'user' %}
        {%- if tools and turn == last %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() %}
                    {{- '"%s": "%s"' % (key, value) if value is string else '"%s": %s' % (key, value | tojson) }}
                    {{- '' if loop.last else ', ' }}
                {%- endfor %}
                {{- '}}' if loop.last else '}}, ' }}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' }}
        {%- if loop.last and system is not none %}{{- system + '\n\n' }}{% endif %}
        {{- turn.content + '[/INST]' }}
    {%- elif turn.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in turn.tool_calls %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + nine(call.id) + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif turn.role == 'assistant' %}
        {{- ' ' + turn.content | trim + eos_token }}
    {%- else %}
        {{- '[TOOL_RESULTS] {"content": ' + turn.content + ', "call_id": "' + nine(turn.tool_call_id) }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
"""It shows the system message in the last message alone, if that is the user's, and refuses calls without ids."""


def tokenizer(words: str, own_control: Sequence[str] = tuple(CONTROL)) -> Any:
    """Pieces learned from `words`, with bytes for what they lack, and spaces as Mistral's writes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    control = ["<unk>", "<s>", "</s>", *own_control]
    each_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator([words], trainers.BpeTrainer(vocab_size=700, special_tokens=[*control, *each_byte]))
    made = Tokenizer.from_str(_as_sentencepiece(made.to_str(), each_byte))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=AS_PUBLISHED, **names)


def _as_sentencepiece(written: str, each_byte: list[str]) -> str:
    """Bytes are in the vocabulary, but not found in a text by their names; two pieces make any third, low ids first."""
    held = json.loads(written)
    held["added_tokens"] = [token for token in held["added_tokens"] if token["content"] not in each_byte]
    vocabulary = held["model"]["vocab"]
    held["model"]["merges"] = [
        [piece[:cut], piece[cut:]]
        for piece in sorted(vocabulary, key=vocabulary.get)
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    return json.dumps(held)


def sentencepiece(own: Any) -> bytes:
    """The same pieces as a `tokenizer.model`, which Mistral has beside its `tokenizer.json`."""
    from sentencepiece import sentencepiece_model_pb2 as format

    model = format.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = format.TrainerSpec.BPE, True
    model.normalizer_spec.remove_extra_whitespaces = False  # as in Llama's and Mistral's
    special = {own.unk_token: 2, **dict.fromkeys(("<s>", "</s>", *CONTROL), 3)}
    for number, piece in enumerate(own.convert_ids_to_tokens(range(len(own)))):
        kind = 6 if piece.startswith("<0x") else special.get(piece, 1)
        model.pieces.add(piece=piece, score=-number if kind == 1 else 0, type=kind)
    content: bytes = model.SerializeToString()
    return content


def save(folder: Path, words: str) -> Path:
    """As a checkpoint."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    own = tokenizer(words)
    own.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(sentencepiece(own))
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    small |= {"max_position_embeddings": 4096}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": len(own)}
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    MistralForCausalLM(MistralConfig(**small | ids)).save_pretrained(folder)
    return folder
