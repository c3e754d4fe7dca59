"""Tiny models as files: Hugging Face folders and GGUF files, with a tokenizer trained in memory."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from subcircuit.subject import Subject
from tiny import VOCAB

__all__ = ["Told", "save", "tokenizer", "write_gguf"]

SPECIALS = ["<pad>", "<s>", "</s>", "[MASK]"]


class Told(list[tuple[str, int, int]]):
    """What a progress callback was told, in order."""

    def __call__(self, phase: str, done: int, total: int, **facts: float) -> None:
        self.append((phase, done, total))


def tokenizer() -> PreTrainedTokenizerBase:
    """One token a letter or digit, and a word for every other id of the tiny models' vocabulary."""
    letters = [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(ord("0"), ord("9") + 1))]
    words = [f"word{number}" for number in range(VOCAB - len(SPECIALS) - len(letters))]
    vocab = {token: index for index, token in enumerate(SPECIALS + letters + words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="[MASK]"
    )


def save(subject: Subject, folder: Path) -> Path:
    """The subject's model and the tokenizer as a Hugging Face folder."""
    subject.model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, NDArray[np.float32]]:
    """A GGUF file of one layer, width 8, two heads, in float32. Returns its tensors by their GGUF names."""
    width, hidden, letters = 8, 12, [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<s>", "</s>", "<unk>", *letters, "ab"]
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    shapes = {
        "token_embd": (len(tokens), width),
        "output": (len(tokens), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (hidden, width),
        "blk.0.ffn_up": (hidden, width),
        "blk.0.ffn_down": (width, hidden),
    }
    random = np.random.default_rng(0)
    tensors = {f"{name}.weight": random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
