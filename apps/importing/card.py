"""What an imported checkpoint is, for people."""

from .importing import Imported

_NEXT = {
    "detection": "mobilevision detect PICTURES --model {path} --out found",
    "classification": "mobilevision cost --ckpt {path}",
}
_FOLDED = (
    "Batch normalisation is folded in: evaluation is exact, and a training that starts from it "
    "(model.weights) calibrates it first."
)


def format_card(imported: Imported) -> str:
    """Return what was imported, from where, and what can be done with it."""
    provenance = imported.provenance
    preprocess = provenance["preprocess"]
    height, width = preprocess["size_hw"]
    revision = f" at {provenance['commit']}" if provenance["commit"] else ""
    rows = {
        "what": f"{provenance['kind']}: {provenance['imported']}",
        "parameters": f"{imported.params:,}",
        "classes": str(len(imported.categories)),
        "pictures": f"{height}x{width}, (pixel - {preprocess['pixel_mean']:g}) / "
        f"{preprocess['pixel_std']:g}",
        "source": f"{provenance['source']}{revision}",
        "sha256": provenance["sha256"],
        "licence": provenance["licence"],
    }
    lines = [str(imported.path), *(f"  {name:<12}{value}" for name, value in rows.items())]
    lines += [f"  {note}" for note in provenance["notes"]]
    if provenance["folded"]:
        lines.append(f"  {_FOLDED}")
    return "\n".join([*lines, "next:", f"  {_NEXT[imported.job].format(path=imported.path)}"])
