"""What 8 and 4 bits cost: the embedded judge's AUC on held-out renders with its language model quantised."""

import argparse
import json
from pathlib import Path

import torch

from recipes.emoji.judge_evaluation import judged, scene_cases
from recipes.emoji.judge_release import JUDGE
from recipes.emoji.release import ROOT
from recipes.emoji.train_judge import prepare
from sana_judge import VILAJudge
from sana_judge.training import judge_report, write_report

RESULTS = ROOT / "benchmarks" / "results" / "emoji-judge-quantization.json"
KINDS = (None, "int8", "nf4")


def main() -> None:
    """Judge the same pictures in float32, in 8 and in 4 bits, and write the AUCs and their changes."""
    parser = argparse.ArgumentParser(prog="python -m recipes.emoji.judge_quantization", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="as of recipes.emoji.train_judge")
    cases = scene_cases(prepare(parser.parse_args().data)[0])
    rows = []
    for kind in KINDS:
        judge = VILAJudge.from_pretrained(JUDGE, dtype=torch.float32, device="cpu", quantize=kind, batch_tiles=128)
        report = judge_report(judged(judge, cases))
        row = {"weights": kind or "float32", "auc": report["auc"], "per_prompt_auc": report["per_prompt_auc"]}
        row["auc_change"] = round(report["auc"] - (rows[0]["auc"] if rows else report["auc"]), 4)
        rows.append(row)
        print(json.dumps(row), flush=True)
    write_report(RESULTS, {"pictures": len(cases), "results": rows})


if __name__ == "__main__":
    main()
