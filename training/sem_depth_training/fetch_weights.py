"""The public weights of the paper-size network: where they are, under which licence, and whether they arrived whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from safetensors import SafetensorError, safe_open

from sem_depth_node.bundle import sha256_of
from sem_depth_training.whole_file import write_whole

RECORD = "weights.json"


class FetchError(Exception):
    """Weights that could not be had; the message names the file and what to do."""


@dataclass(frozen=True)
class PublicWeights:
    """Files of a Hugging Face repository, found there by their names whatever folder they are in."""

    repository: str
    files: tuple[str, ...]
    licence: str


PUBLIC_WEIGHTS: Mapping[str, PublicWeights] = {
    "stable-diffusion": PublicWeights(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("v1-5-pruned-emaonly.safetensors",),
        "CreativeML OpenRAIL-M: free to use and share with use restrictions, which whatever is derived from them keeps",
    ),
    "seecoder": PublicWeights(
        "shi-labs/prompt-free-diffusion",
        ("seecoder-v1-0.safetensors",),
        "unstated for the weights (the code of Prompt-Free Diffusion is MIT): ask its authors before you distribute",
    ),
    "seecoder-pa": PublicWeights(
        "shi-labs/prompt-free-diffusion",
        ("seecoder-pa-v1-0.safetensors",),
        "unstated for the weights (the code of Prompt-Free Diffusion is MIT): ask its authors before you distribute",
    ),
    "clip": PublicWeights(
        "openai/clip-vit-large-patch14",
        ("config.json", "model.safetensors"),
        "unstated for the weights (the code of CLIP is MIT): ask its authors before you distribute",
    ),
}


@dataclass(frozen=True)
class FetchedWeights:
    """Weights on this machine: ``path`` is what the configuration names, ``sha256`` is by file name."""

    name: str
    path: str
    source: str
    licence: str
    sha256: dict[str, str]


def fetch_weights(name: str, folder: Path, local: Path | None = None) -> FetchedWeights:
    """Download the weights ``name`` of :data:`PUBLIC_WEIGHTS` into ``folder``, or take them from ``local``.

    An interrupted download goes on where it stopped. Every file that the hub has a sha256 for is checked against it.
    ``local`` is a file (or a folder, for weights of several files and for Stable Diffusion in diffusers' format), used
    where it lies. What was fetched is recorded in ``weights.json`` in ``folder``.

    Raises FetchError where the hub cannot be reached or lacks a file, where a file is damaged, and where ``local`` is
    not there.
    """
    if name not in PUBLIC_WEIGHTS:
        raise FetchError(f"weights '{name}': expected one of {', '.join(PUBLIC_WEIGHTS)}")
    weights = PUBLIC_WEIGHTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    fetched = _from_hub(name, weights, folder) if local is None else _from_disk(name, weights, local)
    _record(folder / RECORD, fetched)
    return fetched


def _from_hub(name: str, weights: PublicWeights, folder: Path) -> FetchedWeights:
    place = folder / name
    hashes: dict[str, str] = {}
    paths: list[Path] = []
    try:
        listing = HfApi().model_info(weights.repository, files_metadata=True)
        for file in weights.files:
            found = [entry for entry in listing.siblings or [] if Path(entry.rfilename).name == file]
            if not found:
                raise FetchError(
                    f"{weights.repository} on the Hugging Face hub has no {file} any more; get it elsewhere and give "
                    f"its path: --local {name}=PATH"
                )
            entry = min(found, key=lambda candidate: len(candidate.rfilename))
            path = Path(hf_hub_download(weights.repository, entry.rfilename, revision=listing.sha, local_dir=place))
            hashes[file] = sha256_of(path)
            if entry.lfs is not None and entry.lfs.sha256 != hashes[file]:
                path.unlink()
                raise FetchError(
                    f"{path}: sha256 is {hashes[file]}, the hub says {entry.lfs.sha256}; "
                    "the damaged file was removed, run the command again"
                )
            paths.append(path)
    except FetchError:
        raise
    except Exception as error:  # network errors of the hub's client have another base in every major version
        raise FetchError(
            f"{weights.repository}: {error}. Where the Hugging Face hub cannot be reached, copy "
            f"{', '.join(weights.files)} here and give the path: --local {name}=PATH"
        ) from error
    path = paths[0] if len(paths) == 1 else paths[0].parent
    return FetchedWeights(name, str(path), f"huggingface.co/{weights.repository}", weights.licence, hashes)


def _from_disk(name: str, weights: PublicWeights, local: Path) -> FetchedWeights:
    if local.is_file():
        files = [local]
    elif local.is_dir():
        files = sorted(path for path in local.rglob("*") if path.is_file())
    else:
        raise FetchError(f"{local}: no such file or folder; expected {name} ({', '.join(weights.files)})")
    for path in files:
        if path.suffix == ".safetensors":
            _check_whole(path)
    hashes = {str(path.relative_to(local)) if local.is_dir() else path.name: sha256_of(path) for path in files}
    return FetchedWeights(name, str(local.resolve()), "local", weights.licence, hashes)


def _check_whole(path: Path) -> None:
    """Raise FetchError unless the file is as long as the list of tensors at its start says."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise FetchError(f"{path}: not a whole .safetensors file ({error}); copy it again") from error


def _record(path: Path, fetched: FetchedWeights) -> None:
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise FetchError(
            f"{path}: not a record of fetched weights ({error}); delete it and fetch them again"
        ) from error
    entries[fetched.name] = {key: value for key, value in asdict(fetched).items() if key != "name"}
    write_whole(path, json.dumps(entries, indent=2, sort_keys=True) + "\n")
