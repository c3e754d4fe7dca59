"""TransformerLens's edge attribution patching, pair by pair; run in an environment of its own.

    python _peer_lens.py FOLDER     (a GPT-2 checkpoint and pairs.safetensors)

It takes gradients at its corrupted run, so the clean prompts are given as corrupted ones and signs are turned round.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import torch
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, Node, attribution_patch

PAIRS = 2  # each takes the better part of a minute
WORDS = {"q_input": "q", "k_input": "k", "v_input": "v", "attn_head_out": "head"}


def name(node: Node) -> str:
    """A node in subcircuit's words, whatever its position."""
    if node.kind in ("embed", "pos_embed"):
        return "input"
    if node.kind == "logits":
        return "logits"
    return f"{node.layer}.mlp" if node.head is None else f"{node.layer}.{WORDS[node.kind]}.{node.head}"


def main() -> None:
    folder = Path(sys.argv[1])
    pairs = {key: value[:PAIRS] for key, value in load_file(folder / "pairs.safetensors").items()}
    model = TransformerBridge.boot_transformers(str(folder), device="cpu").eval()
    model.requires_grad_(False)
    model.original_model.get_input_embeddings().weight.requires_grad_(True)  # or nothing would carry a gradient
    scores: dict[str, float] = defaultdict(float)
    seconds = 0.0
    for row in range(PAIRS):
        right, wrong = int(pairs["right"][row, 0]), int(pairs["wrong"][row, 0])

        def metric(logits: torch.Tensor, right: int = right, wrong: int = wrong) -> torch.Tensor:
            return (logits[..., -1, right] - logits[..., -1, wrong]).sum()

        start = perf_counter()
        found = attribution_patch(
            model,
            pairs["corrupt"][row : row + 1],
            pairs["clean"][row : row + 1],
            metric,
            EdgeAttributionConfig(granularity="edge"),
        )
        seconds += perf_counter() - start
        for (writer, reader), score in found.edge_scores.items():
            scores[f"{name(writer)}->{name(reader)}"] -= score / PAIRS
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    facts = {"seconds": seconds, "pairs": PAIRS, "peak": 1024 * int(peak.split()[1])}
    print(json.dumps(facts | {"scores": dict(scores)}))


if __name__ == "__main__":
    main()
