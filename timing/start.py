"""From the start of a process to its first verdict: this project beside the released way, on one file.

    python timing/start.py
    python timing/start.py --checkpoint checkpoint.pt --clip FOLDER --runs 5

The released way: build CLIP, wrap it with peft, torch.load the whole file, load_state_dict. CLIP comes from a
local transformers folder ("folder", as on a machine that has downloaded it), or is built from its config and
filled with random numbers first ("config", as without a hub). Without --checkpoint and --clip, random weights
of exactly those forms are made in a scratch folder, 3 GB. Each way runs in processes of its own, by turns, and
once before that counts, so that all find the files in memory. Medians are compared; on a shared machine only
the ratios mean something.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

from gapl import cli
from gapl.config import VIT_L14, DetectorConfig, LoraSpec

IMAGE = Path(__file__).resolve().parent.parent / "assets" / "test_image.jpg"
CLIP_L14: dict[str, Any] = {
    "projection_dim": 768,
    "vision_config": asdict(VIT_L14),
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
}


def ours(checkpoint: Path, clip: Path) -> float:
    """Return P(fake), imports included."""
    from inference import Detector

    return Detector.load(checkpoint, device="cpu", engine="torch")(IMAGE).score


def released(checkpoint: Path, clip: Path | None) -> float:
    """Return it by transformers, peft and torchvision, as the release's files are meant to be loaded."""
    import timm  # noqa: F401, the release's models import it
    import torch
    from peft import LoraConfig, get_peft_model
    from PIL import Image
    from torchvision import transforms
    from transformers import CLIPConfig, CLIPModel

    whole = CLIPModel.from_pretrained(clip) if clip else CLIPModel(CLIPConfig(**CLIP_L14))
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj"])
    network = torch.nn.ModuleDict(
        {
            "feature_extractor": get_peft_model(whole, lora).vision_model,
            "cross_attention": torch.nn.MultiheadAttention(128, 4, batch_first=True),
            "foren_proj": torch.nn.Linear(1024, 128, bias=False),
            "fc": torch.nn.Linear(128, 1, bias=False),
        }
    )
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network.load_state_dict(loaded["model"], strict=True)
    network.eval()
    view = transforms.Compose(
        [
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        pixels = view(Image.open(IMAGE).convert("RGB")).unsqueeze(0)
        embedding = network["foren_proj"](network["feature_extractor"](pixels)["pooler_output"])
        query = torch.nn.functional.normalize(embedding, dim=1).unsqueeze(1)
        prototypes = loaded["prototype"].unsqueeze(0)
        mixture, _ = network["cross_attention"](query, prototypes, prototypes)
        return float(network["fc"](mixture.squeeze(1)).sigmoid())


WAYS: dict[str, Callable[[Path, Path], float]] = {
    "folder": released,
    "config": lambda checkpoint, clip: released(checkpoint, None),
    "ours": ours,
}


def measure(way: str, checkpoint: Path, clip: Path) -> None:
    """Print one JSON line about a way; each runs in a process of its own."""
    import resource

    start = time.perf_counter()
    score = WAYS[way](checkpoint, clip)
    to_verdict_s = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"to_verdict_s": to_verdict_s, "peak_mb": peak_mb, "score": score}))


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="in the form of the released checkpoint.pt")
    parser.add_argument("--clip", type=Path, help="transformers folder of a whole CLIP ViT-L/14")
    parser.add_argument("--runs", type=int, default=3, help="processes a way")
    args = parser.parse_args()
    with TemporaryDirectory() as scratch:
        checkpoint, clip = args.checkpoint, args.clip
        if not checkpoint or not clip:
            subprocess.run([sys.executable, __file__, "make", scratch], check=True, stderr=subprocess.DEVNULL)
            checkpoint, clip = checkpoint or Path(scratch) / "checkpoint.pt", clip or Path(scratch) / "clip"
        turns = [{way: run(way, checkpoint, clip) for way in WAYS} for _ in range(args.runs + 1)]
        report({way: [turn[way] for turn in turns[1:]] for way in WAYS})


def run(way: str, checkpoint: Path, clip: Path) -> dict[str, float]:
    command = [sys.executable, __file__, way, str(checkpoint), str(clip)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the way `{way}` failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    print(f"{'':14}{'folder':>10}{'config':>10}{'ours':>10}{'/ folder':>10}{'/ config':>10}")
    for name in ("to_verdict_s", "peak_mb"):
        folder, config, own = (statistics.median(run[name] for run in runs[way]) for way in WAYS)
        print(f"{name:14}{folder:10.2f}{config:10.2f}{own:10.2f}{own / folder:10.3f}{own / config:10.3f}")
    print(f"difference of P(fake): {abs(runs['folder'][0]['score'] - runs['ours'][0]['score']):.1e}")


def make(folder: Path) -> None:
    """Write random weights in the forms of checkpoint.pt and of OpenAI's CLIP."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from models import torchfile
    from models.detector import build_detector
    from models.tower import VisionTower
    from models.weights.released import released_pixels, to_released
    from models.weights.tensors import PROTOTYPES

    torch.manual_seed(0)
    config = DetectorConfig(2, "", VIT_L14, released_pixels(224), num_prototypes=64, lora=LoraSpec())
    state = build_detector(config, VisionTower(VIT_L14)).state_dict()
    for name, tensor in state.items():
        if ".lora_B" in name or name == PROTOTYPES:
            tensor.normal_(0, 0.01)
    torchfile.write(folder / "checkpoint.pt", to_released(config, state))
    CLIPModel(CLIPConfig(**CLIP_L14)).save_pretrained(folder / "clip")


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
    elif sys.argv[1:2] and sys.argv[1] in WAYS:
        measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        cli.run(main)
