"""The 16 faults of failoverbench (MIT, github.com/failoverbench/failoverbench) through the gateway, by its own runner.

`python benchmarks/failoverbench.py FOLDER` with a clone of it; minutes. Without a folder nothing is measured.
"""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
import yaml

from benchmarks.common.rounds import print_result
from benchmarks.common.servers import free_port, gateway_command, serving

HEALTHY = "fb-ok"
BEGUN = {"S08", "S09", "S10", "S14"}
"""Faults within a stream that the caller has a part of already: an error is all that can follow."""


def main(*arguments: str) -> None:
    if not arguments:
        print("failoverbench is not part of this repository: python benchmarks/failoverbench.py CLONE [fast|full]")
        print_result("failoverbench", None, 0, met=False)
        return
    clone, profile = Path(arguments[0]).resolve(), (*arguments, "full")[1]
    scenarios = run(clone, profile)
    for scenario in scenarios:
        metrics = scenario["metrics"]
        print(f"{scenario['id']}  {scenario['verdict']:<8} {scenario['title']:<38} {metrics['attempts_primary']} tries "
              f"and {metrics['attempts_fallback']} of the fallback, {metrics['elapsed_s']:.1f} s")  # fmt: skip
    wrong = [s["id"] for s in scenarios if s["verdict"] != "pass" and not (s["verdict"] == "safe" and s["id"] in BEGUN)]
    print_result("failoverbench", len(wrong), 0, met=not wrong and len(scenarios) == 16, wrong=wrong)


def run(clone: Path, profile: str) -> list[dict[str, Any]]:
    """Return the scenarios' results: its provider, the gateway and its runner, each as a process."""
    port, gateway_port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider, settings, system = f"http://127.0.0.1:{port}", folder / "gateway.yaml", folder / "tuneline.yaml"
        settings.write_text(yaml.safe_dump({"models": routes(clone, f"{provider}/v1")}))
        params = {"base_url": f"http://127.0.0.1:{gateway_port}/v1", "api_key": "none"}
        system.write_text(yaml.safe_dump({"name": "tuneline", "adapter": "endpoint", "params": params}))
        module = [sys.executable, "-m", "failoverbench"]
        on_path = {"PYTHONPATH": str(clone)}
        stack.enter_context(serving([*module, "wall", "--port", str(port)], folder, port, on_path))
        stack.enter_context(serving(gateway_command(settings, gateway_port), folder, gateway_port))
        words = ["run", "--system", str(system), "--wall", provider, "--profile", profile, "--out", str(folder)]
        subprocess.run([*module, *words], cwd=clone, check=True, stdout=sys.stderr)
        scenarios: list[dict[str, Any]] = json.loads((folder / profile / "tuneline.json").read_text())["scenarios"]
        return scenarios


def routes(clone: Path, url: str) -> dict[str, Any]:
    """Return a model for each scenario, with its fallback; all limits are the gateway's defaults."""
    catalogue = yaml.safe_load((clone / "scenarios/catalogue.yaml").read_text())
    models: dict[str, Any] = {HEALTHY: {"baseline": {"url": url, "model": HEALTHY}}}
    for scenario in catalogue["scenarios"]:
        fallback = scenario.get("fallback_model", catalogue["default_fallback"])
        models[scenario["model"]] = {
            "baseline": {"url": url, "model": scenario["model"]},
            "fallback": {"url": url, "model": fallback},
        }
    return models


if __name__ == "__main__":
    main(*sys.argv[1:])
