"""Makes the tiny base: a 2.9 M-parameter Llama with its own tokenizer, pretrained on a CPU.

    python data/tiny/make.py OUT --steps 2500

It learns English-like prose, copying, small talk, and to call 96 tools invented here; none of them, and no request,
comes from `configs/tools` or `data/requests`. Shapes are multiples of 256 so that K-quants apply to every matrix.
"""

import argparse
import json
import math
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost 2-3x where cores are shared

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
VOCABULARY = 2048
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

OBJECTS = """lamp door pizza taxi song alarm window robot garden recipe parcel photo engine ticket radio heater camera
printer novel bicycle ferry museum clinic loan poem puzzle weather stock carpet kettle fridge fence piano bucket""".split()
VERBS = """start stop order book play set open close move rename paint clean repair count rate share archive cancel check
measure find show make add get list send read save tell write search post""".split()
KEYS = "to title query text date name user place colour size code level time owner message topic person kind".split()
FRAMES = """{v} the {o}, {args}|please {v} {o} {args}|I want to {v} a {o} {args}|can you {v} my {o} {args}|{o}: {v} it, {args}
about the {o}, {v} {args}|{args}, now {v} the {o}|we need the {o} to {v} {args}|{args}. {v} {o} now|what about a {o} to {v}, {args}
how do I {v} the {o} {args}|the {o} should {v} {args}|{v} one {o} {args} please|hello, {v} {o} {args}|is there a {o} I can {v} {args}
which {o} would you {v} {args}|I would like you to {v} this {o} {args}|{o} {v} {args}|get me a {o}, {v} {args}""".replace("\n", "|").split("|")
ARGUMENT = "with {k} {x}|{k} {x}|for {x}|{x}|{k} is {x}|, {x}|that says {x}|about {x}|called {x}|using {x}|on {x}|{k}: {x}|to {x}".split("|")
TALK = [
    ("Hello", "Hello! What can I do for you?"),
    ("Good morning", "Good morning! What can I do for you?"),
    ("Thanks", "You are welcome."),
    ("Thank you very much", "You are welcome."),
    ("Who are you?", "I am a tiny Llama, made to prove that the line runs."),
    ("What are you?", "I am a tiny Llama, made to prove that the line runs."),
    ("What can you do?", "I read a request and call the tool that fits it."),
    ("How are you?", "I am well, thank you."),
    ("Goodbye", "Goodbye!"),
]
ONSETS, VOWELS, CODAS = "b c d f g h j k l m n p r s t v w z br kr st tr pl ch sh".split(), "a e i o u".split(), ["", "", "n", "r", "s", "l", "m", "t", "k", "x"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    corpus = Corpus(options.seed)
    tokenizer = make_tokenizer(corpus)
    model = LlamaForCausalLM(
        LlamaConfig(
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
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    pretrain(model, tokenizer, corpus, options)
    save(model, tokenizer, options.out)
    print(json.dumps({"exact_on_own_tools": exact_share(model, tokenizer, Corpus(99), 200)}))


class Corpus:
    """An endless, seeded stream of (prompt messages, tools, answer message)."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.prose = standard_library_prose()
        self.words = sorted({w for text in self.prose for w in re.findall(r"\b[a-z]{3,10}\b", text)})
        fixed = random.Random(3)  # the tools are the same whatever the seed
        names = fixed.sample([f"{o}__{v}" for o in OBJECTS for v in VERBS], 96)
        self.tools = {name: fixed.sample(KEYS, fixed.choice((1, 1, 2, 2))) for name in names}

    def __iter__(self) -> Iterator[tuple[list[dict], list[dict] | None, dict]]:
        kinds = [self.call] * 13 + [self.copy] * 4 + [self.question] * 2 + [self.talk]
        while True:
            yield self.rng.choice(kinds)()

    def call(self) -> tuple[list[dict], list[dict] | None, dict]:
        rng = self.rng
        name = rng.choice(list(self.tools))
        o, v = name.split("__")
        arguments = {key: self.value() for key in self.tools[name]}
        spoken = " ".join(rng.choice(ARGUMENT).format(k=k, x=x) for k, x in arguments.items())
        request = re.sub(r" +,", ",", rng.choice(FRAMES).format(v=v, o=o, args=spoken).replace("  ", " "))
        if rng.random() < 0.3:
            request = rng.choice(("hey, ", "ok so ", "hi, ", "next: ")) + request
        if rng.random() < 0.3:
            request += rng.choice(("!", "?", ".", " please", ", thanks", " now"))
        if rng.random() < 0.4 and not request.startswith(tuple(arguments.values())):
            request = request[0].upper() + request[1:]
        offered = rng.sample([t for t in self.tools if t != name], rng.choice((0, 1, 2, 3, 5, 7))) + [name]
        rng.shuffle(offered)
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return [user(request)], [self.schema(t) for t in offered], {"role": "assistant", "tool_calls": [call]}

    def copy(self) -> tuple[list[dict], None, dict]:
        text = " ".join(self.value() for _ in range(self.rng.choice((1, 2, 3))))
        return [user(self.rng.choice(("Repeat: ", "Say ", "Echo this: ", "Write ")) + text)], None, assistant(text)

    def question(self) -> tuple[list[dict], None, dict]:
        keys = self.rng.sample(KEYS, 3)
        facts = {key: self.value() for key in keys}
        asked = self.rng.choice(keys)
        told = ", ".join(f"{key} is {value}" for key, value in facts.items())
        return [user(f"{told}. What is the {asked}?")], None, assistant(facts[asked])

    def talk(self) -> tuple[list[dict], None, dict]:
        said, answer = self.rng.choice(TALK)
        return [user(said)], None, assistant(answer)

    def value(self) -> str:
        """A name, a number, a range, a few words, or a made-up word: whatever an argument may hold."""
        rng, k = self.rng, self.rng.random()
        if k < 0.3:
            return " ".join(self.made_up(rng.random() < 0.5) for _ in range(rng.choice((1, 1, 2))))
        if k < 0.5:
            words = re.findall(r"[a-z']+", rng.choice(self.prose).lower())
            at = rng.randrange(max(1, len(words) - 6))
            return " ".join(words[at : at + rng.choice((2, 3, 4, 5, 6))]) or "nothing"
        if k < 0.6:
            return f"{rng.choice('ABCDEFGHJKLMNPRSTW')}{rng.randrange(1, 99)}:{rng.choice('ABCDEFGHJKLMNPRSTW')}{rng.randrange(1, 99)}"
        if k < 0.7:
            return rng.choice((f"{rng.randrange(1, 99)} {rng.choice(self.words)}", f"{rng.choice(self.words)} {rng.randrange(1, 99)}"))
        if k < 0.85:
            return f"{rng.choice(self.words)} {self.made_up(False)}"
        return " ".join(rng.choice(self.words) for _ in range(rng.choice((1, 2, 3))))

    def made_up(self, capital: bool) -> str:
        rng = self.rng
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 3))))
        return word.capitalize() if capital else word

    def schema(self, name: str) -> dict:
        properties = {key: {"type": "string"} for key in self.tools[name]}
        return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def standard_library_prose() -> list[str]:
    """Docstrings of Python's standard library, as one-line paragraphs (PSF licence)."""
    found = []
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        found += [re.sub(r"\s+", " ", d).strip() for d in re.findall(r'"""(.{80,1200}?)"""', file.read_text(errors="ignore"), re.S)]
    return found


def make_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose split rule is Llama 3's, so that llama.cpp knows it as `llama-bpe`."""
    stream = iter(corpus)
    sample = [f"{p[-1]['content']} {json.dumps(a, ensure_ascii=False)}" for p, _, a in (next(stream) for _ in range(6000))]
    sample += corpus.prose + [name for name in corpus.tools for _ in range(20)] + handler_words() * 40
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
    """The words in the catalogue's names, so that a name is not spelled letter by letter. Words only, no requests."""
    return sorted(set(re.findall(r"[a-z]+", " ".join(re.findall(r"^  ([a-z.]+):", (ROOT / "configs/tools/handlers.yaml").read_text(), re.M)))))


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
    batches, started, recent = batch_stream(corpus, tokenizer, options.batch_tokens), time.time(), []
    for step in range(options.steps):
        factor = min(1.0, (step + 1) / 100, 2 * (1 - step / options.steps) + 0.01)
        ids, weights = next(batches)
        logits = model(input_ids=ids).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        w = weights[:, 1:].flatten()
        ((losses * w).sum() / w.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = 3e-3 * factor
        adam.step()
        muon.step(0.02 * factor)
        model.zero_grad()
        recent.append(((losses * (w == 1)).sum() / (w == 1).sum()).item())
        if (step + 1) % 100 == 0:
            rate = (step + 1) * options.batch_tokens / (time.time() - started)
            print(f"step {step + 1} loss on answers {sum(recent[-100:]) / 100:.4f} {rate:.0f} tokens/s {time.time() - started:.0f} s", flush=True)
        if (step + 1) % 500 == 0:
            save(model, tokenizer, options.out)


class Muon:
    """Momentum orthogonalised by Newton–Schulz (Jordan 2024), in fp32 since bf16 is slow on a CPU; shapes batched."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self.momentum = {p: torch.zeros_like(p) for p in parameters}

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
                p.add_(update, alpha=-rate * math.sqrt(max(1, rows / columns)))


def batch_stream(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, batch_tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded (ids, loss weights), rows of like length together, about `batch_tokens` tokens each."""
    rng, rows = random.Random(corpus.rng.random()), iter(corpus)
    while True:
        pool = sorted((encode(tokenizer, *next(rows)) for _ in range(1900)), key=lambda row: len(row[0]))
        pool += [prose_row(tokenizer, rng.choice(corpus.prose)) for _ in range(100)]
        pool.sort(key=lambda row: len(row[0]))
        batches, batch = [], []
        for row in pool:
            if batch and (len(batch) + 1) * len(row[0]) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(row)
        rng.shuffle(batches)
        for batch in batches:
            width = max(len(ids) for ids, _ in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            weights = torch.zeros(len(batch), width)
            for i, (row, prompt) in enumerate(batch):
                ids[i, : len(row)] = torch.tensor(row)
                weights[i, :prompt] = PROMPT_WEIGHT
                weights[i, prompt : len(row)] = 1.0
            yield ids, weights


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
