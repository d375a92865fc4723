"""Makes the tiny base: a 3.4 M-parameter Llama with its own tokenizer, pretrained on a CPU.

    python data/tiny/make.py OUT --requests FOLDER

It learns what people ask of an assistant (real.py: three public collections, in FOLDER), and, from corpus.yaml, to call tools made of
its words, copying, small talk, some prose. None of the tools and no request comes from `configs/tools` or `data/requests`. Shapes are multiples of 256 so that K-quants apply to every matrix.
"""

import argparse
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost 2-3x where cores are shared

import torch
import torch.nn.functional as F
import yaml
from real import Real, read_requests
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
VOCABULARY = 4096
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
]
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEARNING_SPLIT = r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s"
"""Merges learned with this never join a space or a quote to a word: a word has the same tokens in a request and in
JSON, which makes copying easy to learn."""

PROMPT_WEIGHT = 0.1
"""What a prompt's token counts in the loss; an answer's counts 1."""

WIDTH = 256
"""Tokens of a packed line; longer rows are left out."""

WORDS = yaml.safe_load((Path(__file__).parent / "corpus.yaml").read_text())
TOOLS, ASSOCIATIONS = 800, 200
"""Tools known by heart, and objects among them that a request calls by words which only stand for them here: so any word
may come to mean a tool, as in a catalogue that is learned later."""
PEOPLE, MOMENTS, NUMBERS = {"to", "name", "user", "owner", "person", "artist_name"}, {"date", "time", "timeofday"}, {"size", "code", "level"}
ONSETS, VOWELS, CODAS = "b c d f g h j k l m n p r s t v w z br kr st tr pl ch".split(), "a e i o u".split(), ["", "", "n", "r", "s", "l", "m", "t", "k", "x"]
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--requests", type=Path, required=True, help="folder with the checkouts real.py names")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--lines", type=int, default=24, help=f"a step, of {WIDTH} tokens each")
    parser.add_argument("--init", type=Path, help="go on from this base")
    parser.add_argument("--rate", type=float, default=1.0, help="of the learning rates")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    corpus = Corpus(options.seed, read_requests(options.requests))
    if options.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.init)
        model = LlamaForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(corpus)
        model = LlamaForCausalLM(shape(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    pretrain(model, tokenizer, corpus, options)
    save(model, tokenizer, options.out)
    print(json.dumps({"exact_on_own_tools": exact_share(model, tokenizer, Corpus(99, corpus.real), 200)}))


def shape(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """3.4 M parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )


class Corpus:
    """An endless, seeded stream of (prompt messages, tools or None, answer message)."""

    def __init__(self, seed: int, real: list[list[Real]]) -> None:
        self.rng, self.real = random.Random(seed), real
        self.prose = standard_library_prose()
        counts = Counter(w for text in self.prose for w in re.findall(r"\b[a-z]{3,10}\b", text))
        self.plain = sorted(word for word, count in counts.items() if count >= 5)
        self.words = self.plain + handler_words() * 8
        fixed = random.Random(3)  # the tools are the same whatever the seed
        new = [word for word in self.plain if word not in WORDS["objects"] and len(word) > 3]
        invented = {word: [word, *fixed.sample(new, 2)] for word in fixed.sample(new, ASSOCIATIONS)}
        self.objects = WORDS["objects"] | invented
        names = fixed.sample([f"{o}__{v}" for o in self.objects for v in WORDS["verbs"]], TOOLS)
        self.tools = {name: fixed.sample(WORDS["keys"], fixed.choice((1, 1, 2, 2))) for name in names}

    def __iter__(self) -> Iterator[tuple[list[dict], list[dict] | None, dict]]:
        kinds = [self.asked] * 12 + [self.call] * 4 + [self.listed_call] * 4 + [self.copy] * 3 + [self.question] + [self.talk]
        while True:
            yield self.rng.choice(kinds)()

    def asked(self) -> tuple[list[dict], None, dict]:
        """What somebody really asked: its intent is the tool, its slots the arguments, half of them with other values."""
        rng = self.rng
        real = rng.choice(rng.choices(self.real, weights=(4, 4, 2))[0])
        other, arguments, said = rng.random() < 0.5, {}, []
        for text, slot in real.parts:
            if slot and slot not in arguments:
                arguments[slot] = text = self.value(slot) if other else text.strip()
            said.append(text)
        text = rng.choice(WORDS["openers"]) * (rng.random() < 0.5) + "".join(said) + rng.choice(WORDS["closers"]) * (rng.random() < 0.5)
        if rng.random() < 0.4 and not text.startswith(tuple(arguments.values()) or ("\n",)):
            text = text[:1].upper() + text[1:]
        call = {"type": "function", "function": {"name": real.intent.replace("_", "__", 1), "arguments": arguments}}
        return [user(text)], None, {"role": "assistant", "tool_calls": [call]}

    def call(self) -> tuple[list[dict], None, dict]:
        """A request for a tool that is known by heart."""
        name = self.rng.choice(list(self.tools))
        o, v = name.split("__")
        request, answer = self.request(name, self.rng.choice(self.objects[o]), v, self.tools[name])
        return request, None, answer

    def listed_call(self) -> tuple[list[dict], list[dict], dict]:
        """A request for a tool nobody has heard of, listed among others."""
        rng = self.rng
        tools = {f"{rng.choice(self.plain)}__{rng.choice(list(WORDS['verbs']))}": rng.sample(WORDS["keys"], rng.choice((1, 2))) for _ in range(rng.choice((1, 2, 3, 5)))}
        name = rng.choice(list(tools))
        request, answer = self.request(name, *name.split("__"), tools[name])
        others = rng.sample(list(self.tools), rng.choice((0, 0, 1, 2)))
        tools |= {other: self.tools[other] for other in others}
        listed = list(tools)
        rng.shuffle(listed)
        return request, [schema(tool, tools[tool]) for tool in listed], answer

    def request(self, name: str, object_: str, v: str, keys: list[str]) -> tuple[list[dict], dict]:
        """A user's words for a tool, and the call that answers them."""
        rng = self.rng
        arguments = {key: self.value(key) for key in keys}
        told = [rng.choice(WORDS["slots"]) for _ in arguments]
        if len(told) == 2 and not any("{key}" in slot for slot in told):  # else nobody could tell which is which
            told[0] = rng.choice([slot for slot in WORDS["slots"] if "{key}" in slot])
        spoken = [slot.format(key=k, value=x) for slot, (k, x) in zip(told, arguments.items(), strict=True)]
        rng.shuffle(spoken)
        slots = rng.choice((" ", ", ", " and ")).join(spoken)
        text = pick(rng, rng.choice(WORDS["frames"])).format(object=object_, verb=rng.choice(WORDS["verbs"][v]), slots=slots)
        text = rng.choice(WORDS["openers"]) + text + rng.choice(WORDS["closers"])
        if rng.random() < 0.4 and not text.startswith(tuple(arguments.values())):
            text = text[0].upper() + text[1:]
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return [user(text)], {"role": "assistant", "tool_calls": [call]}

    def copy(self) -> tuple[list[dict], None, dict]:
        text = " ".join(self.value() for _ in range(self.rng.choice((1, 2, 3))))
        return [user(self.rng.choice(("Repeat: ", "Say ", "Echo this: ", "Write ")) + text)], None, assistant(text)

    def question(self) -> tuple[list[dict], None, dict]:
        keys = self.rng.sample(WORDS["keys"], 3)
        facts = {key: self.value(key) for key in keys}
        asked = self.rng.choice(keys)
        told = ", ".join(f"{key} is {value}" for key, value in facts.items())
        return [user(f"{told}. What is the {asked}?")], None, assistant(facts[asked])

    def talk(self) -> tuple[list[dict], None, dict]:
        said, answer = self.rng.choice(WORDS["talk"])
        return [user(said)], None, assistant(answer)

    def value(self, key: str = "") -> str:
        """What an argument may hold, mostly of the kind its key suggests."""
        rng, k = self.rng, self.rng.random()
        if key in PEOPLE and k < 0.7:
            return self.made_up(True) if k < 0.5 else f"{self.made_up(True)} {self.made_up(True)}"
        if key in MOMENTS and k < 0.7:
            return rng.choice((f"{rng.choice(DAYS)} at {rng.randrange(1, 24)}", f"{rng.randrange(1, 31)} {rng.choice(MONTHS)}", rng.choice(DAYS), f"next {rng.choice(self.words)}"))
        if key in NUMBERS and k < 0.5:
            return rng.choice((str(rng.randrange(1, 500)), f"{rng.choice('ABCDEFGHJKLMNPRSTW')}{rng.randrange(1, 99)}:{rng.choice('ABCDEFGHJKLMNPRSTW')}{rng.randrange(1, 99)}"))
        if k < 0.15:
            return " ".join(self.made_up(rng.random() < 0.5) for _ in range(rng.choice((1, 1, 2))))
        if k < 0.45:
            words = re.findall(r"[a-z']+", rng.choice(self.prose).lower())
            at = rng.randrange(max(1, len(words) - 6))
            return " ".join(words[at : at + rng.choice((2, 3, 4, 5, 6))]) or "nothing"
        if k < 0.55:
            return rng.choice((f"{rng.randrange(1, 99)} {rng.choice(self.words)}", f"{rng.choice(self.words)} {rng.randrange(1, 99)}"))
        if k < 0.7:
            return f"{rng.choice(self.words)} {self.made_up(False)}"
        return " ".join(rng.choice(self.words) for _ in range(rng.choice((1, 2, 2, 3))))

    def made_up(self, capital: bool) -> str:
        rng = self.rng
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 3))))
        return word.capitalize() if capital else word


def schema(name: str, keys: list[str]) -> dict:
    properties = {key: {"type": "string"} for key in keys}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def pick(rng: random.Random, pattern: str) -> str:
    """The pattern with one of each `(a|b)` chosen."""
    return re.sub(r"\(([^)]*)\)", lambda choice: rng.choice(choice[1].split("|")), pattern)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def standard_library_prose() -> list[str]:
    """Docstrings of Python's standard library, as one-line paragraphs (PSF licence)."""
    found, library = [], Path(os.__file__).parent
    folders = ("", "asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "unittest", "urllib", "xml")
    for file in sorted(file for folder in folders for file in (library / folder).glob("*.py")):
        found += [re.sub(r"\s+", " ", d).strip() for d in re.findall(r'"""(.{80,1200}?)"""', file.read_text(errors="ignore"), re.S)]
    return found


def make_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose split rule is Llama 3's, so that llama.cpp knows it as `llama-bpe`."""
    stream = iter(corpus)
    sample = [f"{p[-1]['content']} {json.dumps(a, ensure_ascii=False)}" for p, _, a in (next(stream) for _ in range(6000))]
    sample += [text for collection in corpus.real for real in collection for text, _ in real.parts]
    sample += corpus.prose + [name for name in corpus.tools for _ in range(20)] + handler_words() * 400
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter(LEARNING_SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sample,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    tokenizer.pre_tokenizer = splitter(LLAMA_3_SPLIT)
    tokenizer.add_special_tokens(SPECIAL)
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        model_max_length=2048,
        chat_template=(ROOT / "configs/templates/tiny.jinja").read_text(),
    )


def handler_words() -> list[str]:
    """The catalogue's words, in no order: the tokenizer must not spell them, and what is copied holds them as any base
    has read them somewhere. A token that was never written cannot be learned by an adapter under frozen embeddings."""
    return sorted(set(re.findall(r"[A-Za-z]+", (ROOT / "configs/tools/handlers.yaml").read_text())))


def splitter(rule: str) -> pre_tokenizers.PreTokenizer:
    by_rule = pre_tokenizers.Split(Regex(rule), "isolated")
    return pre_tokenizers.Sequence([by_rule, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, options: argparse.Namespace) -> None:
    """Muon on the matrices, AdamW on the rest; warm up, hold, then fall linearly over the last half."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices}
    adam = torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    muon = Muon(matrices)
    model.train()

    @torch.compile(dynamic=False)
    def losses_of(ids: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, position_ids=positions, attention_mask=visible, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")

    batches, started, recent = packed(corpus, tokenizer, options.lines), time.time(), []
    for step in range(options.steps):
        factor = min(1.0, (step + 1) / 100, 2 * (1 - step / options.steps) + 0.01)
        ids, positions, visible, weights = next(batches)
        losses, w = losses_of(ids, positions, visible), weights[:, 1:].flatten()
        ((losses * w).sum() / w.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = 3e-3 * options.rate * factor
        adam.step()
        muon.step(0.02 * options.rate * factor)
        model.zero_grad()
        recent.append(((losses * (w == 1)).sum() / (w == 1).sum()).item())
        if (step + 1) % 100 == 0:
            rate, rms = (step + 1) * ids.numel() / (time.time() - started), torch.cat([p.detach().flatten() for p in matrices]).pow(2).mean().sqrt()
            print(f"step {step + 1} loss on answers {sum(recent[-100:]) / 100:.4f} rms of weights {rms:.3f} {rate:.0f} tokens/s {time.time() - started:.0f} s", flush=True)
        if (step + 1) % 250 == 0:
            save(model, tokenizer, options.out)


class Muon:
    """Momentum orthogonalised by Newton–Schulz (Jordan 2024), in fp32 since bf16 is slow on a CPU; shapes batched.

    With weight decay: without it the matrices grew tenfold, and an adapter's steps of usual size no longer moved them.
    """

    def __init__(self, parameters: list[torch.Tensor], weight_decay: float = 0.2) -> None:
        self.momentum, self.weight_decay = {p: torch.zeros_like(p) for p in parameters}, weight_decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for p in self.momentum:
            shapes.setdefault(p.shape, []).append(p)
        for (rows, columns), group in shapes.items():
            for p in group:
                self.momentum[p].mul_(0.95).add_(p.grad)
            x = torch.stack([p.grad + 0.95 * self.momentum[p] for p in group])
            x = x.mT if rows > columns else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x.mT if rows > columns else x
            for p, update in zip(group, x, strict=True):
                p.mul_(1 - rate * self.weight_decay).add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))


def packed(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, lines: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """(ids, positions, visible, loss weights) of `lines` lines of WIDTH tokens; a row sees itself alone."""
    rng, stream = random.Random(corpus.rng.random()), iter(corpus)
    waiting: list[tuple[list[int], int]] = []
    while True:
        while len(waiting) < 400:
            row = prose_row(tokenizer, rng.choice(corpus.prose)) if rng.random() < 0.06 else encode(tokenizer, *next(stream))
            if len(row[0]) <= WIDTH:
                waiting.append(row)
        ids, weights = torch.full((lines, WIDTH), tokenizer.pad_token_id), torch.zeros(lines, WIDTH)
        positions, owner = torch.zeros(lines, WIDTH, dtype=torch.long), torch.full((lines, WIDTH), -1)
        for line in range(lines):
            at = 0
            while (fit := next((i for i, (row, _) in enumerate(waiting) if at + len(row) <= WIDTH), None)) is not None:
                row, prompt = waiting.pop(fit)
                here = slice(at, at + len(row))
                ids[line, here], positions[line, here], owner[line, here] = torch.tensor(row), torch.arange(len(row)), at
                weights[line, at + 1 : at + prompt] = PROMPT_WEIGHT  # not its first token, which the row before it cannot foresee
                weights[line, at + prompt : at + len(row)] = 1.0
                at += len(row)
        visible = (owner[:, None, :, None] == owner[:, None, None, :]) & torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
        yield ids, positions, visible, weights


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict], tools: list[dict] | None, answer: dict) -> tuple[list[int], int]:
    """Token ids of the whole row and how many of them are its prompt."""
    prompt = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*messages, answer], tools=tools, tokenize=False)
    first, rest = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole[len(prompt) :]))
    return first + rest, len(first)


def prose_row(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], int]:
    ids = tokenizer(text[:400]).input_ids
    return ids, len(ids)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A bf16 checkpoint transformers and llama.cpp read."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(state, strict=False)
    copy.tie_weights()
    copy.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end_of_text|>")]
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)


@torch.no_grad()
def exact_share(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, rows: int) -> float:
    """Share of fresh calls to its own tools answered token for token."""
    model.eval()
    right = 0
    for _ in range(rows):
        messages, tools, answer = corpus.call()
        ids, prompt = encode(tokenizer, messages, tools, answer)
        start = torch.tensor([ids[:prompt]])
        out = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=len(ids) - prompt, do_sample=False)
        right += out[0].tolist() == ids
    return right / rows


if __name__ == "__main__":
    main()
