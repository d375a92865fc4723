"""Is what was made the model that was trained? Every file against transformers, on the run's own text and on hard text.

Tokens, template and stop tokens must be the same; the adapter's greedy answers must be the merged model's; each
quantization is held against 16 bit. `verify.json` says what was compared, and `SHA256SUMS` pins the files.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core import artifacts
from tuneline.core.artifacts import write_atomic
from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.build import LlamaCpp, find_llama_cpp
from tuneline.engines.llama_cpp.libllama import Gguf
from tuneline.stages.convert import ollama_modelfile
from tuneline.stages.convert.folders import onnx
from tuneline.stages.convert.folders.compressed import folder_of, logits_of
from tuneline.stages.convert.verification.reference_model import (
    Talk,
    own_talks,
    own_tokenizer,
    rendered,
    too_large,
    tuned_model,
)

if TYPE_CHECKING:
    import numpy as np

    from tuneline.stages.convert.worker import Task

REPORT, SUMS = "verify.json", "SHA256SUMS"
MERGED = "merged"
"""What quantized checkpoints are held against, in 16 bit."""
POSITIONS = 256
"""So many are compared at a time: a vocabulary each."""
TEXTS = 64
"""Rows of the run whose tokens are compared."""
TEMPLATES = 8
"""Conversations whose rendering is compared."""
PROMPTS, ANSWER_TOKENS = 8, 24
CLEAR_NATS = 0.05
"""By so much the adapter must prefer a token to the next best for another answer to be a difference: merging rounds."""
HARD_TEXT = (
    "Grüße, naïve façade, Ærøskøbing – “quotes” … 1234567 3.14159 -0x1F",
    "東京タワー 北京 서울 ไทย हिन्दी العربية עברית ქართული አማርኛ ᚠᛇᚻ",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 é \u200b\ufeff \U00010348 \U0001f9ff",
    "  leading\n\n\n\ttabs \r\n windows   end   ",
    'def f(x):\n    return {"a": [1, 2.5e-3, None], "b": \'\\\\n\'}  # <b>&amp;</b>',
    "I'll we've IT'S don't 'RE ' s 'll",
)
TALKS = (
    Talk([{"role": "user", "content": HARD_TEXT[0]}], None),
    Talk(
        [
            {"role": "system", "content": "  You help. "},
            {"role": "user", "content": HARD_TEXT[2]},
            {"role": "assistant", "content": " Done. "},
            {"role": "user", "content": HARD_TEXT[4]},
        ],
        None,
    ),
)
"""Conversations that every run is asked, beside its own."""


@dataclass(frozen=True)
class Check:
    """One comparison of one file."""

    check: str
    file: str
    passed: bool
    detail: str


def verify(task: "Task", tell: Callable[..., None]) -> dict[str, Any]:
    """Write `verify.json` and `SHA256SUMS`; returns the fidelity of each file, how many checks, what was skipped.

    Raises:
        StageFailed: a check failed, naming it and the file.
    """
    from tuneline.stages.convert.worker import Output

    assert task.verify
    report = Path(task.verify["report"])
    tuned = [Path(out.path) for out in (Output(**out) for out in task.outputs) if out.tuned]
    tell(done=0, total=1, unit="checks", text="verifying tokens, templates, answers")
    checks, about = _compared(task, tuned)
    write_atomic(report, json.dumps(about | {"checks": list(map(asdict, checks))}, indent=1, ensure_ascii=False))
    if failed := [check for check in checks if not check.passed]:
        first = failed[0]
        raise StageFailed(
            f"{report.parent / first.file}: {first.check}: {first.detail}\n"
            f"{len(failed)} of {len(checks)} checks failed; all are in {report}"
        )
    made = [file for file in sorted(report.parent.glob("*.*")) if file.suffix in (".gguf", ollama_modelfile.SUFFIX)]
    kept = [Path(task.merged)] if task.merged and Path(task.merged).parent == report.parent else []
    _write_sums(
        report.parent, [*made, *(file for folder in (*kept, *_folders(task)) for file in sorted(folder.iterdir()))]
    )
    tell(done=1, total=1, unit="checks", text=f"{len(checks)} passed")
    return {"fidelity": about["fidelity"], "checks": len(checks), "skipped": about["skipped"]}


def _compared(task: "Task", tuned: Sequence[Path]) -> tuple[list[Check], dict[str, Any]]:
    """All checks, and what the report says beside them."""
    assert task.verify
    llama, tokenizer, reference = find_llama_cpp(), own_tokenizer(task), tuned[0]
    own = own_talks(Path(task.verify["prepared"]), ("validation.jsonl", "train.jsonl"), TEXTS)
    talks = [*own, *TALKS]
    texts = [(tokenizer.bos_token or "") + text for text in HARD_TEXT]
    texts += [rendered(tokenizer, talk) for talk in talks]
    sequences = _sequences(tokenizer, texts, task.verify["tokens"])
    checks = [check for file in tuned for check in _tokens_and_template(llama, file, tokenizer, texts)]
    checks.append(_template_as_served(task, tuned, talks, tokenizer))
    turns = ollama_modelfile.turns_of(tokenizer)
    checks += [_ollama(file, turns, tokenizer) for file in tuned if turns]
    answers = _greedy(task, llama, reference, talks, tokenizer)
    checks += [answers] if isinstance(answers, Check) else []
    fidelity = _fidelity(llama, reference, tuned, sequences, Path(task.scratch), task.threads)
    checks += [_faithful(f"{name}.gguf", about, task.verify["floor"]) for name, about in fidelity.items()]
    checks += [check for folder in _folders(task) for check in _folder_checks(folder, tokenizer, texts)]
    checks += [_answers_of_onnx(task, f, talks, tokenizer) for f in _folders(task) if (f / onnx.MODEL).exists()]
    of_folders = _fidelity_of_folders(task, sequences)
    checks += [_faithful(name, about, task.verify["floor"]) for name, about in of_folders.items()]
    fidelity |= of_folders
    skipped = [] if isinstance(answers, Check) else [answers]
    return checks, {"texts": len(texts), "skipped": skipped, "fidelity": fidelity}


def _sequences(tokenizer: Any, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """The run's own texts as ids, so many that they have `tokens` in all; the hard ones stay out."""
    found: list[list[int]] = []
    for text in texts[len(HARD_TEXT) :]:
        ids = tokenizer(text, add_special_tokens=False).input_ids[: tokens - sum(map(len, found))]
        if len(ids) < 2:
            break
        found.append(ids)
    return found


def _tokens_and_template(llama: LlamaCpp, file: Path, tokenizer: Any, texts: Sequence[str]) -> Iterator[Check]:
    with Gguf(llama, file) as loaded:
        wrong = [t for t in texts if loaded.tokenize(t) != tokenizer(t, add_special_tokens=False).input_ids]
        told = f"{len(texts)} texts"
        told = f"{len(wrong)} of {told} have other ids than transformers': {wrong[0][:80]!r}" if wrong else told
        yield Check("token_ids", file.name, not wrong, told)
        same = loaded.chat_template == (tokenizer.chat_template or "")
        yield Check("template", file.name, same, "the same text" if same else "not the text the model was trained with")
        stops = _stops(tokenizer)
        missing = [token for token in stops if not loaded.is_end_of_generation(token)]
        names = ", ".join(tokenizer.convert_ids_to_tokens(missing or stops))
        yield Check("stop_tokens", file.name, not missing, f"{'does not stop at ' if missing else ''}{names}")


def _stops(tokenizer: Any) -> list[int]:
    """All tokens at which transformers stops: those of the generation config, and of the tokenizer."""
    config = Path(tokenizer.name_or_path) / "generation_config.json"
    named = json.loads(config.read_text()).get("eos_token_id") if config.exists() else None
    found = named if isinstance(named, list) else [named]
    return sorted({token for token in (*found, tokenizer.eos_token_id) if token is not None})


def _template_as_served(task: "Task", tuned: Sequence[Path], talks: Sequence[Talk], tokenizer: Any) -> Check:
    """The prompt that llama.cpp's own server makes of a conversation, tools included, against transformers'."""
    from tuneline.engines.llama_cpp.llama_server import start_llama_server

    smallest = min(tuned, key=lambda file: file.stat().st_size)
    asked = [*talks[:TEMPLATES], *talks[-len(TALKS) :]]
    with start_llama_server(
        smallest, alias="m", log=Path(task.scratch) / "server.log", context=64, threads=1
    ) as server:
        for talk in asked:
            wanted = rendered(tokenizer, talk, prompt=True)
            shown = _served(server.base_url.removesuffix("/v1"), talk)
            # The server leaves the first token out of the text and puts it before the ids.
            if wanted not in (shown, (tokenizer.bos_token or "") + shown):
                return Check("rendered_template", smallest.name, False, f"{wanted!r}, but it is served {shown!r}")
    return Check("rendered_template", smallest.name, True, f"{len(asked)} conversations")


def _served(url: str, talk: Talk) -> str:
    import urllib.request

    messages = json.loads(json.dumps(talk.asked))
    for call in (call for message in messages for call in message.get("tool_calls") or ()):
        call |= {"id": "1"}
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])  # as clients send them
    body = {"messages": messages} | ({"tools": talk.tools} if talk.tools else {})
    request = urllib.request.Request(
        f"{url}/apply-template", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        prompt: str = json.loads(answer.read())["prompt"]
    return prompt


def _ollama(gguf: Path, turns: ollama_modelfile.Turns, tokenizer: Any) -> Check:
    """Write a Modelfile for this file and read it back: its prompts and stops against transformers'."""
    place, stops = gguf.with_suffix(ollama_modelfile.SUFFIX), tokenizer.convert_ids_to_tokens(_stops(tokenizer))
    context = json.loads((Path(tokenizer.name_or_path) / "config.json").read_text())["max_position_embeddings"]
    text = ollama_modelfile.written(gguf.name, turns, stops, context=min(context, ollama_modelfile.MOST_CONTEXT))
    write_atomic(place, text)
    found = ollama_modelfile.read(place.read_text("utf-8"))
    talks = [Talk([m | {"content": m["content"].strip()} for m in talk.messages], None) for talk in TALKS]
    wanted = [rendered(tokenizer, talk, prompt=True).removeprefix(tokenizer.bos_token or "") for talk in talks]
    shown = [ollama_modelfile.rendered(found["TEMPLATE"][0], talk.messages) for talk in talks]
    passed = (found["FROM"], found["PARAMETER stop"], shown) == ([f"./{gguf.name}"], stops, wanted)
    return Check("ollama", place.name, passed, f"{len(talks)} conversations, stops at {', '.join(stops)}")


def _greedy(task: "Task", llama: LlamaCpp, file: Path, talks: Sequence[Talk], tokenizer: Any) -> "Check | str":
    """The answers of base and adapter, unmerged, token by token against the merged file; or why they were not asked."""
    import numpy as np
    import torch

    base = Path(task.base)
    if why := too_large(base):
        return f"greedy: {why}"
    assert task.adapter
    model, stops = tuned_model(base, Path(task.adapter)), _stops(tokenizer)
    other: list[str] = []
    compared = 0
    prompts = [tokenizer(rendered(tokenizer, t, prompt=True), add_special_tokens=False).input_ids for t in talks]
    with Gguf(llama, file, context=max(map(len, prompts[:PROMPTS])) + ANSWER_TOKENS, threads=task.threads) as merged:
        for prompt in prompts[:PROMPTS]:
            with torch.inference_mode():
                made = model.generate(
                    torch.tensor([prompt], device=model.device),
                    attention_mask=torch.ones((1, len(prompt)), dtype=torch.long, device=model.device),
                    do_sample=False,
                    max_new_tokens=ANSWER_TOKENS,
                    eos_token_id=stops,
                    pad_token_id=stops[0],
                )
                ids = made[0].tolist()
                wanted = model(made).logits[0, len(prompt) - 1 : -1].float().cpu().numpy()
            found = merged.logits(ids)[len(prompt) - 1 : -1].argmax(1)
            answer = np.array(ids[len(prompt) :])
            margin = wanted[np.arange(len(answer)), answer] - wanted[np.arange(len(answer)), found]
            compared += len(answer)
            other += [tokenizer.decode(ids)[-80:]] if (margin > CLEAR_NATS).any() else []
    told = f"{compared} tokens of {min(PROMPTS, len(prompts))} answers"
    if other:
        told += f"; {len(other)} answers differ from the adapter's, the first: …{other[0]!r}"
    return Check("greedy", file.name, not other, told)


def _fidelity(
    llama: LlamaCpp, reference: Path, files: Sequence[Path], sequences: list[list[int]], scratch: Path, threads: int
) -> dict[str, dict[str, Any]]:
    """Perplexity of each file, and KL divergence from, and agreement with, the 16-bit one, over all next tokens."""
    import numpy as np

    context, total = max(map(len, sequences)), sum(len(ids) - 1 for ids in sequences)
    found: dict[str, dict[str, Any]] = {}
    wanted: np.memmap[Any, Any] | None = None
    for file in (reference, *(f for f in files if f != reference)):
        losses, divergences, agreed, at = [], [], 0, 0
        with Gguf(llama, file, context=context, threads=threads) as model:
            if wanted is None:  # as large as the text and the vocabulary: on disk
                wanted = np.memmap(scratch / "reference.f32", np.float32, "w+", shape=(total, model.vocabulary_size))
            for ids in sequences:
                ours, rows = _log_softmax(model.logits(ids)[:-1]), slice(at, at + len(ids) - 1)
                if file == reference:
                    wanted[rows] = ours
                theirs = wanted[rows]
                losses.append(-ours[np.arange(len(ours)), ids[1:]])
                divergences.append((np.exp(theirs) * (theirs - ours)).sum(1))
                agreed += int((theirs.argmax(1) == ours.argmax(1)).sum())
                at += len(ours)
        found[file.stem] = _summary(np.concatenate(losses), np.concatenate(divergences), agreed, total)
    for about in found.values():
        about["perplexity_ratio"] = round(about["perplexity"] / found[reference.stem]["perplexity"], 4)
    (scratch / "reference.f32").unlink()
    return found


def _folder_checks(folder: Path, tokenizer: Any, texts: Sequence[str]) -> Iterator[Check]:
    """Tokens, template and stops of a checkpoint, as transformers reads them."""
    from transformers import AutoTokenizer

    there: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    wrong = [text for text in texts if there(text).input_ids != tokenizer(text).input_ids]
    yield Check("token_ids", folder.name, not wrong, f"{len(wrong)} of {len(texts)} texts have other ids")
    same = there.chat_template == tokenizer.chat_template
    yield Check("template", folder.name, same, "the same text" if same else "not the text the model was trained with")
    stops = [", ".join(one.convert_ids_to_tokens(_stops(one))) for one in (there, tokenizer)]
    yield Check("stop_tokens", folder.name, stops[0] == stops[1], f"{stops[0]}; wanted {stops[1]}")


def _answers_of_onnx(task: "Task", folder: Path, talks: Sequence[Talk], tokenizer: Any) -> Check:
    """The greedy answers of onnxruntime, token by token against the merged checkpoint."""
    import numpy as np

    assert task.merged
    scratch = Path(task.scratch)
    prompts = [tokenizer(rendered(tokenizer, t, prompt=True), add_special_tokens=False).input_ids for t in talks]
    prompts = prompts[:PROMPTS]
    answered = onnx.answered(folder, prompts, _stops(tokenizer), ANSWER_TOKENS, scratch)
    file = logits_of(Path(task.merged), Path(task.base), answered, scratch)
    logits: np.ndarray = np.memmap(file, np.float32, "r").reshape(sum(len(ids) - 1 for ids in answered), -1)
    at, other, compared = 0, 0, 0
    for prompt, ids in zip(prompts, answered, strict=True):
        wanted, answer = logits[at + len(prompt) - 1 : at + len(ids) - 1], np.array(ids[len(prompt) :])
        margin = wanted.max(1) - wanted[np.arange(len(answer)), answer]
        other, compared, at = other + bool((margin > CLEAR_NATS).any()), compared + len(answer), at + len(ids) - 1
    told = f"{compared} tokens of {len(prompts)} answers of onnxruntime; {other} differ from the merged checkpoint's"
    return Check("greedy", folder.name, not other, told)


def _fidelity_of_folders(task: "Task", sequences: list[list[int]]) -> dict[str, dict[str, Any]]:
    """As `_fidelity`, of checkpoints against the merged one, all in transformers."""
    import numpy as np

    if not _folders(task):
        return {}
    assert task.merged
    learned = np.concatenate([ids[1:] for ids in sequences])
    found: dict[str, dict[str, Any]] = {}
    wanted: np.ndarray | None = None
    for folder in (Path(task.merged), *_folders(task)):
        file = logits_of(folder, Path(task.base), sequences, Path(task.scratch))
        logits: np.ndarray = np.memmap(file, np.float32, "r").reshape(len(learned), -1)
        wanted = logits if wanted is None else wanted
        losses, divergences, agreed = [], [], 0
        for at in range(0, len(learned), POSITIONS):
            rows = slice(at, at + POSITIONS)
            ours, theirs = _log_softmax(logits[rows]), _log_softmax(wanted[rows])
            losses.append(-ours[np.arange(len(ours)), learned[rows]])
            divergences.append((np.exp(theirs) * (theirs - ours)).sum(1))
            agreed += int((theirs.argmax(1) == ours.argmax(1)).sum())
        name = MERGED if folder == Path(task.merged) else folder.name
        found[name] = _summary(np.concatenate(losses), np.concatenate(divergences), agreed, len(learned))
        found[name]["perplexity_ratio"] = round(found[name]["perplexity"] / found[MERGED]["perplexity"], 4)
    return found


def _faithful(name: str, about: dict[str, Any], floor: float) -> Check:
    passed = about["finite"] and about["top_1_agreement"] >= floor
    told = f"top-1 agreement {about['top_1_agreement']:.1%} over {about['tokens']} tokens, at least {floor:.0%} wanted"
    return Check("fidelity", name, passed, told if about["finite"] else "it gives no numbers")


def _summary(losses: "np.ndarray", divergences: "np.ndarray", agreed: int, tokens: int) -> dict[str, Any]:
    import numpy as np

    return {
        "perplexity": round(float(np.exp(losses.mean())), 4),
        "kl_mean_nats": round(max(0.0, float(divergences.mean())), 6),
        "kl_p99_nats": round(max(0.0, float(np.quantile(divergences, 0.99))), 6),
        "top_1_agreement": round(agreed / tokens, 4),
        "tokens": tokens,
        "finite": bool(np.isfinite(losses).all() and np.isfinite(divergences).all()),
    }


def _log_softmax(logits: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shifted = logits - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def _folders(task: "Task") -> list[Path]:
    """The quantized checkpoints, in the order they were asked for."""
    if not task.folders or not task.verify:
        return []
    return [folder_of(Path(task.verify["report"]), kind) for kind in task.folders["kinds"]]


def _write_sums(folder: Path, files: Sequence[Path]) -> None:
    """As `sha256sum --check SHA256SUMS` reads them."""
    lines = [f"{artifacts.sha256(file)}  {os.path.relpath(file, folder)}\n" for file in files]
    write_atomic(folder / SUMS, "".join(lines))
