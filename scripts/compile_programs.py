"""Compile the RASP programs of `subcircuit bench ground-truth`, and read off which of their parts do something.

Needs an environment of its own (no torch):

    python3 -m venv tracr && tracr/bin/pip install "tracr-pypi==1.0.0" "jax>=0.7,<0.11" safetensors
    tracr/bin/python scripts/compile_programs.py

Each program becomes NAME.safetensors (weights by the names of `subcircuit.compiled`, and examples run by tracr itself)
and NAME.json (configuration, vocabulary, ground truth). The truth is read off the weights: the compiler gives every
variable of a program dimensions of its own in the residual stream, so a writer feeds a reader exactly where the
writer's output weights and the reader's input weights meet. What an edge carries is found in `program_truth.py` by
running the program with something else in its place.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from program_truth import truth
from safetensors.numpy import save_file
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

FOLDER = Path(__file__).parent.parent / "src" / "subcircuit" / "data"
BOS, PAD = "<bos>", "<pad>"
EXAMPLES = 16  # prompts run by tracr, kept for the tests
SHARPNESS = 50.0  # a number's logit falls by this times the squared distance

NAMES = {
    "attn/query": "self_attn.q_proj",
    "attn/key": "self_attn.k_proj",
    "attn/value": "self_attn.v_proj",
    "attn/linear": "self_attn.o_proj",
    "mlp/linear_1": "mlp.up_proj",
    "mlp/linear_2": "mlp.down_proj",
}

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Program:
    """A program and what its prompts look like."""

    about: str
    make: Callable[[], rasp.SOp]
    alphabet: list[Any]
    length: int  # longest prompt, without its start token
    causal: bool = False
    varied: bool = True  # shorter prompts too, filled up with the padding token, which the program ignores
    first: int = 1  # judged positions begin here
    values: tuple[Fraction, ...] = ()  # of a numerical output: the values that have a token


FRACTIONS = tuple(sorted({Fraction(k, n) for n in range(1, 6) for k in range(n + 1)}))
PROGRAMS = {
    "reverse": Program("the tokens in reverse order", lambda: lib.make_reverse(rasp.tokens), list("abcde"), 5),
    "frac-prevs": Program(
        "the share of x among the tokens so far",
        lambda: lib.make_frac_prevs(rasp.tokens == "x"),
        list("wxyz"),
        5,
        causal=True,
        varied=False,
        values=FRACTIONS,
    ),
    "sort": Program(
        "the tokens in increasing order",
        lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=5, min_key=1),
        [1, 2, 3, 4],
        5,
    ),
    "detect-pattern": Program(
        "whether the last three tokens are a b c",
        lambda: lib.detect_pattern(rasp.tokens, "abc"),
        list("abc"),
        6,
        causal=True,
        varied=False,
        first=3,
    ),
}


class Compiled:
    """A compiled program as plain matrices, (in, out) as tracr has them."""

    def __init__(self, program: Program) -> None:
        sop = program.make()
        self.program = program
        self.model = compiling.compile_rasp_to_model(
            sop, set(program.alphabet), program.length, program.causal, BOS, PAD
        )
        self.basis = list(self.model.residual_labels)
        self.params = {name: np.asarray(part["w"]) for name, part in self.model.params.items() if "w" in part}
        encoded = self.model.input_encoder.encoding_map
        self.vocabulary = [str(token) for token in sorted(encoded, key=encoded.get)]
        self.unembedding, self.bias = self._unembedding(sop.label)
        self.first = program.first

    def _unembedding(self, label: str) -> tuple[Array, Array]:
        """A row for every token: one-hot outputs as they are, a number by its distance to the token's value.

        `-s (y - v)^2` is, but for what all tokens share, `2 s v y - s v^2`: linear in y, with a bias.
        """
        numbers = self.program.values
        encoder = self.model.output_encoder
        outputs = {str(value): value for value in numbers or encoder.encoding_map}
        self.vocabulary += [name for name in outputs if name not in self.vocabulary]
        rows = np.zeros((len(self.vocabulary), len(self.basis)), np.float32)
        bias = np.zeros(len(self.vocabulary), np.float32)
        if numbers:
            bias[:] = -10 * SHARPNESS  # a token that is no value is no answer
        for name, value in outputs.items():
            token = self.vocabulary.index(name)
            if numbers:
                rows[token, self.basis.index(label)] = 2 * SHARPNESS * float(value)
                bias[token] = -SHARPNESS * float(value) ** 2
            else:
                rows[token, self.basis.index(f"{label}:{value}")] = 1
        return rows, bias

    @property
    def config(self) -> dict[str, Any]:
        found = self.model.model_config
        return {
            "vocab_size": len(self.vocabulary),
            "hidden_size": len(self.basis),
            "num_hidden_layers": found.num_layers,
            "num_attention_heads": found.num_heads,
            "head_dim": found.key_size,
            "intermediate_size": found.mlp_hidden_size,
            "max_position_embeddings": self.program.length + 1,
            "causal": self.program.causal,
        }

    def weights(self) -> dict[str, Array]:
        """The state of a `CompiledModel`, whose matrices are (out, in)."""
        embeddings = [np.asarray(self.model.params[name]["embeddings"]) for name in ("token_embed", "pos_embed")]
        tokens = np.zeros((len(self.vocabulary), len(self.basis)), np.float32)
        tokens[: len(embeddings[0])] = embeddings[0]
        found = {"model.embed_tokens.weight": tokens, "model.embed_positions.weight": embeddings[1]}
        for layer in range(self.config["num_hidden_layers"]):
            for theirs, ours in NAMES.items():
                found[f"model.layers.{layer}.{ours}.weight"] = self.params[f"transformer/layer_{layer}/{theirs}"].T
        found |= {"lm_head.weight": self.unembedding, "lm_head.bias": self.bias}
        return {name: np.ascontiguousarray(weight, np.float32) for name, weight in found.items()}

    def head(self, layer: int, head: int) -> tuple[Array, Array]:
        """Its query-key form and its value-output map on the residual stream."""
        size = self.config["head_dim"]
        part = slice(head * size, (head + 1) * size)
        q, k, v = (self.params[f"transformer/layer_{layer}/attn/{name}"][:, part] for name in ("query", "key", "value"))
        return q @ k.T, v @ self.params[f"transformer/layer_{layer}/attn/linear"][part]

    def mlp(self, layer: int) -> tuple[Array, Array]:
        """Input and output weights of the neurons that have both."""
        inward, outward = (self.params[f"transformer/layer_{layer}/mlp/linear_{part}"] for part in (1, 2))
        live = inward.any(0) & outward.any(1)
        return inward[:, live], outward[live]

    def prompts(self, n: int) -> list[list[Any]]:
        rng = random.Random(0)
        found = []
        for _ in range(n):
            length = rng.randint(1, self.program.length) if self.program.varied else self.program.length
            tokens = [rng.choice(self.program.alphabet) for _ in range(length)]
            found.append([BOS, *tokens, *[PAD] * (self.program.length - length)])
        return found


def write(name: str, program: Program) -> None:
    compiled = Compiled(program)
    nodes, edges = truth(compiled)
    prompts = compiled.prompts(EXAMPLES)
    runs = [compiled.model.apply(prompt) for prompt in prompts]
    examples = {
        "examples.ids": np.array([[compiled.vocabulary.index(str(token)) for token in prompt] for prompt in prompts]),
        "examples.stream": np.stack([np.asarray(run.transformer_output[0], np.float32) for run in runs]),
    }
    told = {
        "about": program.about,
        "config": compiled.config,
        "vocabulary": compiled.vocabulary,
        "alphabet": [str(token) for token in program.alphabet],
        "length": program.length,
        "varied": program.varied,
        "first": program.first,
        "basis": compiled.basis,
        "nodes": nodes,
        "edges": {edge: carries for edge, carries in edges.items() if carries != "idle"},
        "idle": [edge for edge, carries in edges.items() if carries == "idle"],
        "decoded": [[str(value) for value in run.decoded[1:]] for run in runs],
    }
    FOLDER.mkdir(exist_ok=True)
    save_file({**compiled.weights(), **examples}, path := FOLDER / f"{name}.safetensors")
    path.chmod(0o644)
    (FOLDER / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {compiled.config['num_hidden_layers']} layers, {len(nodes)} nodes, {len(edges)} edges")


if __name__ == "__main__":
    for name, program in PROGRAMS.items():
        write(name, program)
