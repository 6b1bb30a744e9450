"""Collect the log that benchmarks/plans.py is run on: fresh problems, many samples of both embedded models.

32 samples of tiny-small and 16 of tiny-large for each of 3,200 problems of four kinds, with the verdicts of the exact
check and of the reward model and with DeepConf's confidences, and the searches that `howhard quickstart` has; about 40
minutes on two cores. It goes on from where an earlier call stopped.

    python benchmarks/plans_log.py --log .work/plans-log
"""

import argparse
from pathlib import Path

import msgspec

from howhard.training.commands import collect
from howhard.training.config import Config, embedded_config
from howhard.training.problems.families import fresh_problems
from howhard.training.prompt_sets import from_problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="the log directory, made or gone on with")
    parser.add_argument("--prompts", type=int, default=3200)
    parser.add_argument("--small", type=int, default=32, help="samples of tiny-small; never fewer than of tiny-large")
    parser.add_argument("--large", type=int, default=16)
    parser.add_argument("--seed", type=int, default=11, help="of the problems")
    options = parser.parse_args()
    problems = from_problems(fresh_problems(options.prompts, options.seed))
    config = embedded_config()
    uri = f"sqlite:///{options.log.with_suffix('.db')}"
    # More samples of one model than of the other: that one is collected alone first.
    alone = msgspec.structs.replace(
        config,
        backends={"small": config.backends["small"]},
        arms=[arm for arm in config.arms if arm.backend == "small" and "beam" not in arm.name],
    )
    for settings, samples in ((alone, options.small), (config, options.large)):
        print(collect(_with_confidences(settings), problems, options.log, samples=samples, tracking_uri=uri).text())


def _with_confidences(config: Config) -> Config:
    return msgspec.structs.replace(config, collect=msgspec.structs.replace(config.collect, confidence_of=20))


if __name__ == "__main__":
    main()
