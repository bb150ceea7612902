#!/usr/bin/env python
"""Prove the GPU path on this machine and time it: tests, steps, a whole fit, evaluate and label.

It runs the tests marked `gpu`, times a step of the fit in every way that there is against its bare
GEMMs, then a fit of 100 million frames, evaluate and label, and writes one page of Markdown and the
same as JSON. Nothing is fetched. It takes less than ten minutes; no row is begun after `--minutes`,
and the same command goes on with what is missing. Where there is no GPU it says so, runs the tests
on tensors of CUDA without data, and runs all of the rest on the CPU, at tiny sizes.

    PYTHONPATH=. python pipelines/benchmark/gpu.py [--part tests,steps,fits] [--output out/gpu.md]

docs/gpu.md says how to read the page.
"""

import argparse
from pathlib import Path

try:
    import torch
    from gpu_parts.fits import run_fits
    from gpu_parts.machine import describe
    from gpu_parts.results import Results
    from gpu_parts.steps import run_steps
    from gpu_parts.suite import run_suite
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: {error}. Run it from the checkout with PYTHONPATH=. in the environment; what "
        "gmmpipe itself needs is listed in pyproject.toml, and may lie in any folder of PYTHONPATH"
    ) from error

PARTS = ("tests", "steps", "fits")


def main() -> None:
    parser = argparse.ArgumentParser(description="prove and time the GPU path")
    parser.add_argument("--part", default=",".join(PARTS), help="some of tests,steps,fits")
    parser.add_argument("--output", type=Path, default=Path("out/gpu.md"))
    parser.add_argument("--minutes", type=float, default=9, help="no row is begun after them")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to run all the code")
    parser.add_argument("--overwrite", action="store_true", help="measure every row anew")
    options = parser.parse_args()
    parts = options.part.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    has_gpu = torch.cuda.is_available()
    if options.device == "cuda" and not has_gpu:
        parser.error("--device cuda: there is no GPU that torch sees")
    if options.device == "auto" and not has_gpu:
        print("There is no GPU here: tests on tensors without data, and the rest on the CPU, tiny.")
        options.quick = True
    on_gpu = has_gpu and options.device != "cpu"
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")

    machine = describe(device, options.quick)
    results = Results(options.output, machine, options.minutes, options.overwrite)
    if "tests" in parts:
        run_suite(results, on_gpu)
    if "steps" in parts:
        run_steps(results, device, options.quick)
    if "fits" in parts:
        run_fits(results, device, options.quick)
    print(f"{options.output}: {results.summary()}")
    if results.left:
        print(f"left for another call, which goes on from there: {len(results.left)} rows")
    if failures := results.failures():
        raise SystemExit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
