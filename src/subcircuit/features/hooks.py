"""What makers of dictionaries call the places that are sites here: TransformerLens' hooks, and modules as sparsify has.

A hook whose place no site has, the input of an MLP after its norm for one, has no name here.
"""

import re

from subcircuit.errors import UsageError
from subcircuit.sites import Kind, Site

__all__ = ["HOOKS", "hook_name", "site_of"]

HOOKS: dict[Kind, str] = {
    Kind.RESID: "hook_resid_pre",
    Kind.MLP_IN: "hook_resid_mid",
    Kind.ATTN: "hook_attn_out",
    Kind.MLP_OUT: "hook_mlp_out",
    Kind.MLP: "hook_mlp_out",
    Kind.HEAD: "attn.hook_z",
    Kind.NEURON: "mlp.hook_post",
}
PLACES: dict[str, Kind] = {hook: kind for kind, hook in HOOKS.items() if kind is not Kind.MLP}
MODULES: dict[str, Kind] = {".mlp": Kind.MLP_OUT, ".self_attn": Kind.ATTN, ".attn": Kind.ATTN, ".attention": Kind.ATTN}
HOOK = re.compile(r"(?:blocks\.(?P<layer>\d+)\.)?(?P<place>.+)")
MODULE = re.compile(r"(?:.+\.)?(?:layers|h)\.(?P<layer>\d+)(?P<module>\.\w+)?")


def hook_name(site: Site, layers: int) -> str:
    """The TransformerLens name of a site in a model of so many layers. Raises UsageError where it has none."""
    if site.kind not in HOOKS:
        known = ", ".join(HOOKS)
        raise UsageError(f"dictionaries are not trained at '{site.kind}'", f"take one of: {known}")
    if site == Site(layers, Kind.RESID):
        return f"blocks.{layers - 1}.hook_resid_post"
    return f"blocks.{site.layer}.{HOOKS[site.kind]}"


def site_of(hook: str, layer: int | None = None) -> Site | None:
    """The site of a hook as its maker spells it; `layer` where the hook's name tells none. None for a place unknown."""
    if found := MODULE.fullmatch(hook):
        number, module = int(found["layer"]), found["module"]
        if module is None:  # what leaves a layer enters the next
            return Site(number + 1, Kind.RESID)
        return Site(number, MODULES[module]) if module in MODULES else None
    found = HOOK.fullmatch(hook)
    number = -1 if found is None else int(found["layer"] or (-1 if layer is None else layer))
    if found is None or number < 0:
        return None
    if found["place"] == "hook_resid_post":
        return Site(number + 1, Kind.RESID)
    return Site(number, PLACES[found["place"]]) if found["place"] in PLACES else None
