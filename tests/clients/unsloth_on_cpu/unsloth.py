"""Unsloth's two calls, which need a GPU, made of transformers and peft; trl and peft get the script's arguments."""

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    """As the exported script uses it."""

    @staticmethod
    def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit):
        return AutoModelForCausalLM.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model, use_gradient_checkpointing, random_state, **settings):
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
