"""AutoCircuit's mask gradient, which is EAP at mask 0, over one batch; run in an environment of its own.

python _peer_auto_circuit.py FOLDER     (a GPT-2 checkpoint and pairs.safetensors)
"""

import json
import sys
from pathlib import Path
from time import perf_counter

from auto_circuit.data import PromptDataLoader, PromptDataset
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
from auto_circuit.utils.graph_utils import patchable_model
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel


def lens(folder: Path) -> HookedTransformer:
    """The checkpoint as a HookedTransformer, its weights unprocessed and frozen."""
    model = GPT2LMHeadModel.from_pretrained(folder)
    shape = model.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_ctx=shape.n_positions,
        n_heads=shape.n_head,
        d_head=shape.n_embd // shape.n_head,
        d_mlp=4 * shape.n_embd,
        d_vocab=shape.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
    )
    hooked = HookedTransformer(config)
    hooked.load_state_dict(convert_gpt2_weights(model, config), strict=False)
    return hooked.eval().requires_grad_(False)


def name(node: str) -> str:
    """A node in subcircuit's words: "A3.7.Q" -> "3.q.7"."""
    if node in ("Resid Start", "Resid End"):
        return "input" if node == "Resid Start" else "logits"
    if node.startswith("MLP"):
        return f"{node.split()[-1]}.mlp"
    layer, head, *reads = node[1:].split(".")
    return f"{layer}.{reads[0].lower() if reads else 'head'}.{head}"


def main() -> None:
    folder = Path(sys.argv[1])
    pairs = load_file(folder / "pairs.safetensors")
    model = patchable_model(lens(folder), factorized=True, slice_output="last_seq", separate_qkv=True)
    data = PromptDataset(pairs["clean"], pairs["corrupt"], list(pairs["right"]), list(pairs["wrong"]))
    loader = PromptDataLoader(data, seq_len=None, diverge_idx=0, batch_size=len(pairs["clean"]), shuffle=False)
    start = perf_counter()
    found = mask_gradient_prune_scores(
        model, loader, None, grad_function="logit", answer_function="avg_diff", mask_val=0.0
    )
    seconds = perf_counter() - start
    scores = {f"{name(e.src.name)}->{name(e.dest.name)}": float(e.prune_score(found)) for e in model.edges}
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    facts = {"seconds": seconds, "pairs": len(pairs["clean"]), "peak": 1024 * int(peak.split()[1])}
    print(json.dumps(facts | {"scores": scores}))


if __name__ == "__main__":
    main()
