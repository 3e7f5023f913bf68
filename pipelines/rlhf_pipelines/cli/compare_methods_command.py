"""`rlhf compare-methods`: tune one model in several ways on the same data, and say which way is worth what it costs.

In the pipeline root stand the runs, as `rlhf run` leaves them, with one cache for all, and a folder `comparison`: the data
as it was divided, what each run made, the answers, and the registry of the tuned models. What is there already, from a
comparison that was stopped, is taken from there.
"""

import hashlib
import json
import math
import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlhf_pipelines.cli.display import Display, printable
from rlhf_pipelines.cli.run_command import (
    EXAMPLE_PROMPT,
    MODEL,
    LocalRun,
    check_early,
    prepare_root,
    run_locally,
    shown,
)
from rlhf_pipelines.methods import METHODS, SHARED
from rlhf_pipelines.parameters import OF_A_JUDGE, PIPELINES, check_parameters
from rlhf_tuning import __version__, step_times
from rlhf_tuning.data.held_out import held_out_rows
from rlhf_tuning.data.importer import MAX_EVAL_PREFERENCES
from rlhf_tuning.data.method_data import MethodData, data_path, write_method_data
from rlhf_tuning.data.output import written_together
from rlhf_tuning.errors import ParameterError
from rlhf_tuning.evaluation.judges import check_judge, check_server
from rlhf_tuning.evaluation.method_comparison import BASE, BEST_OF_N, Contestant, MethodComparison
from rlhf_tuning.models.model_reference import content_fingerprint, local_folder, split_revision
from rlhf_tuning.parameters import PARAMETERS, Value
from rlhf_tuning.reports.methods_report import MethodsReport, write_methods_report

#: The method whose reward model best of n takes.
_REWARDS_FROM = "rlhf"
_FOLDER = "comparison"
_JUDGE = "judge"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to compare.

    Args:
        methods: Names in `METHODS`, or `best_of_n`.
        seeds: Of the trainings.
        samples: From how many best of n chooses.
        minutes: What each training is to take; None for the steps of the parameters.
        price_per_hour: What this machine costs; None where nobody said.
        own: Parameters of single methods.
        pipeline_root: Folder that receives everything.
        output: The page; the results as JSON and as Markdown go beside it.
        command: The words of the command, to be shown.
    """

    methods: Sequence[str]
    seeds: Sequence[int]
    samples: int = 8
    minutes: float | None = None
    price_per_hour: float | None = None
    own: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    pipeline_root: Path = Path("runs")
    output: Path = Path("methods.html")
    command: Sequence[str] = ()

    def __post_init__(self) -> None:
        known = [*METHODS, BEST_OF_N]
        if unknown := [name for name in self.methods if name not in known]:
            raise ParameterError(f"--methods has {unknown[0]!r}; there are {', '.join(known)}.")
        if BEST_OF_N in self.methods and _REWARDS_FROM not in self.methods:
            raise ParameterError(
                f"--methods has {BEST_OF_N}, which takes the reward model of {_REWARDS_FROM}. Name that as well."
            )
        for flag, given in (("--methods", self.methods), ("--seeds", self.seeds)):
            if twice := [each for each in given if given.count(each) > 1]:
                raise ParameterError(f"{flag} has {twice[0]!r} twice. Give each once.")
        if self.samples < 2:
            raise ParameterError(f"--best-of is {self.samples}; it must be at least 2.")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ParameterError(f"The budget is {self.minutes:g} minutes; it must be above 0.")
        for name, own in self.own.items():
            self._check_own(name, own)

    def _check_own(self, name: str, own: Mapping[str, Value]) -> None:
        if name not in self.trained:
            raise ParameterError(
                f"--set names {name}, which is not among the methods that train: {', '.join(self.trained)}."
            )
        shared = {*METHODS[name].data, *SHARED, *OF_A_JUDGE}
        if given := [parameter for parameter in own if parameter in shared]:
            raise ParameterError(
                f"--set gives {name} its own {given[0]}; all methods have the same base model, data and judges. Give it as "
                f"--{given[0].replace('_', '-')}."
            )
        if self.minutes is not None and METHODS[name].steps in own:
            raise ParameterError(
                f"--set says how long {name} trains ({METHODS[name].steps}), and so does the budget. Give one of the two."
            )

    @property
    def trained(self) -> list[str]:
        """Return the methods that train, in the order of `METHODS`."""
        return [name for name in METHODS if name in self.methods]

    def check_data(self, values: Mapping[str, Value]) -> None:
        """Check that there is all data that the methods learn from.

        Raises:
            ParameterError: If a dataset is missing.
        """
        needing = [name for name in self.trained if "prompt_dataset" in METHODS[name].data]
        if needing and not str(values["prompt_dataset"]).strip():
            raise ParameterError(
                f"prompt_dataset is missing: {needing[0]} learns from it. Give it, or leave {needing[0]} out with --methods."
            )


def compare_methods(values: Mapping[str, Value], asked: Asked, display: Display) -> int:
    """Train, answer, judge, and write what comes of it; return the command's exit status.

    Args:
        values: Checked parameters, as `parameters.COMPARED` lists them.
        asked: What to compare.
        display: Shows the runs.

    Raises:
        RlhfError: If an input cannot be used, or something fails that is no step of a run.
    """
    _check_output(asked.output)
    asked.check_data(values)
    check_judge(**{name: values[name] for name in OF_A_JUDGE})  # type: ignore[arg-type]
    root = prepare_root(asked.pipeline_root, display)
    check_early(values, in_containers=False)
    check_server(str(values["judge"]), str(values["judge_key_secret"]))
    comparison = _Comparison(values, asked, display, root)
    status = comparison.train()
    if status:
        return status
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, which nobody here can heed
        report = comparison.report()
    page, results, summary = (asked.output.absolute().with_suffix(ending) for ending in (".html", ".json", ".md"))
    text = write_methods_report(report, page=str(page), results=str(results), summary=str(summary))
    pages = ", ".join(map(shown, (page, results, summary)))
    display.say("\n" + "\n".join(map(printable, text.splitlines())) + f"\n\nReport: {pages}")
    return 0


def _check_output(output: Path) -> None:
    if output.suffix != ".html":
        raise ParameterError(f"--output is {str(output)!r}; give a name that ends in .html.")
    if not output.absolute().parent.is_dir():
        raise ParameterError(f"--output is {str(output)!r}, and there is no folder {output.absolute().parent}.")


class _Comparison:
    """A comparison under way: its data, its runs, what they made."""

    def __init__(self, values: Mapping[str, Value], asked: Asked, display: Display, root: Path) -> None:
        self.values, self.asked, self.display, self.root = dict(values), asked, display, root
        self.folder = root / _FOLDER
        self.registry = self.folder / "registry"
        self.base = str(values["large_model_reference"])
        # All of them, before anything is done: a mistake in the last need not wait for the first.
        for seed in asked.seeds:
            for name in asked.trained:
                self._training(name, seed, {})
        display.say("Dividing the data: what is held out for judging, and what the methods learn from")
        self.data: MethodData = write_method_data(
            self._data_folder,
            prompt_dataset=str(values["prompt_dataset"]),
            preference_dataset=str(values["preference_dataset"]),
            eval_dataset=str(values["eval_dataset"]),
            dataset_uri=str(values["dataset_uri"]),
            instruction=str(values["instruction"]),
            eval_prompts=int(values["eval_prompts"]),
            judge_share=float(values["held_out_reward_model_share"]),
            max_bad_rows=int(values["max_bad_rows"]),
        )
        #: What everything that is made depends on, beside parameters.
        references = (self.base, str(values["reward_model_reference"]))
        self.identity = [__version__, self.data.fingerprint, *map(_weights, references)]
        self.steps: dict[str, int] = {}
        self.forecast: dict[str, float] = {}
        self.made: dict[tuple[str, int], Mapping[str, Any]] = {}
        self.judge: Mapping[str, Any] = {}

    @property
    def _data_folder(self) -> Path:
        return self.folder / "data"

    # Training.

    def train(self) -> int:
        """Run the pipeline of every method for every seed; return 0, or the status of the run that failed."""
        self._choose_steps()
        judge = self._arguments("reward_model_pipeline", 0, preference_dataset="judge_preferences")
        runs = {
            (name, seed): self._training(name, seed, self._steps_of(name))
            for seed in self.asked.seeds
            for name in self.asked.trained
        }
        if self.data.rows["judge_preferences"]:
            self.judge, status = self._run(
                "reward_model_pipeline", judge, name=_JUDGE, label="the judging reward model"
            )
            if status:
                return status
        for (name, seed), arguments in runs.items():
            method = METHODS[name]
            made, status = self._run(
                method.pipeline, arguments, name=f"{name}-seed-{seed}", label=f"{method.label}, seed {seed}"
            )
            if status:
                return status
            self.made[name, seed] = made
        return 0

    def _choose_steps(self) -> None:
        """Choose how many steps each method takes. A comparison that goes on takes those that it began with."""
        minutes = self.asked.minutes
        if minutes is None:
            self.steps = {name: self._own_steps(name) for name in self.asked.trained}
            return
        files = {name: self._file_of_steps(name) for name in self.asked.trained}
        if new := [name for name, file in files.items() if not file.exists()]:
            from rlhf_tuning.planning.budget import forecast_here, steps_within

            self.display.say("Forecasting what a step of each method takes on this machine")
            given = {name: parameter.default for name, parameter in PARAMETERS.items()} | self.values
            given |= {"dataset_uri": "", "instruction": ""}
            given |= {
                f"{kind}_dataset": self.data.path(f"{kind}s") if f"{kind}s" in self.data.rows else ""
                for kind in ("preference", "prompt")
            }
            takes = forecast_here({name: value for name, value in given.items() if value is not None})
            for name in new:
                seconds = takes(METHODS[name].training, {**METHODS[name].own, **self.asked.own.get(name, {})})
                steps = steps_within(60 * minutes, seconds, label=METHODS[name].label)
                with written_together(str(files[name])) as (stream,):
                    stream.write(json.dumps({"steps": steps, "seconds": seconds(steps)}).encode())
        chosen = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
        self.steps = {name: of_one["steps"] for name, of_one in chosen.items()}
        self.forecast = {name: of_one["seconds"] for name, of_one in chosen.items()}
        words = ", ".join(f"{METHODS[name].label} {steps:,}" for name, steps in self.steps.items())
        self.display.say(f"Steps that fit into {minutes:g} minutes each: {words}")

    def _file_of_steps(self, name: str) -> Path:
        """Return where a method's steps are kept: by what it trains with, whatever the other methods and the judges."""
        trains_with = self._training(name, 0, {}) | {"scorer": ""}
        return self.folder / f"steps-{name}-{_digest([*self.identity, self.asked.minutes, trains_with])}.json"

    def _own_steps(self, name: str) -> int:
        given = float(self._value_of(name, METHODS[name].steps))
        return math.ceil(given * self._steps_an_epoch(name)) if METHODS[name].epochs else int(given)

    def _steps_of(self, name: str) -> dict[str, Value]:
        """Return the parameter that gives a method the steps that fit into the budget; nothing without one."""
        if self.asked.minutes is None:
            return {}
        steps, method = self.steps[name], METHODS[name]
        return {method.steps: steps / self._steps_an_epoch(name) if method.epochs else steps}

    def _steps_an_epoch(self, name: str) -> float:
        rows = self.data.rows[METHODS[name].data["preference_dataset"]]
        learnt = rows - held_out_rows(rows, MAX_EVAL_PREFERENCES)
        return learnt / int(self._value_of(name, "batch_size"))

    def _value_of(self, name: str, parameter: str) -> Value:
        return self.asked.own.get(name, {}).get(parameter, self.values[parameter])

    def _training(self, name: str, seed: int, steps: Mapping[str, Value]) -> dict[str, Value]:
        """Return the arguments of a method's run; `steps` say how long it trains where its own parameters do not."""
        method = METHODS[name]
        return self._arguments(
            method.pipeline,
            seed,
            own={**method.own, **steps, **self.asked.own.get(name, {})},
            model_display_name=f"{name}-seed-{seed}",
            **method.data,
        )

    def _arguments(
        self,
        pipeline: str,
        seed: int,
        *,
        own: Mapping[str, Value] | None = None,
        model_display_name: str = "",
        **data: str,
    ) -> dict[str, Value]:
        """Return the arguments of a run.

        Args:
            pipeline: Its pipeline.
            seed: Of the training.
            own: What the method has of its own.
            model_display_name: Of the tuned model.
            data: Parameters to the files of the data that they get.
        """
        given: dict[str, Value] = {
            # No run asks a judge: the comparison does.
            **{name: value for name, value in self.values.items() if name not in OF_A_JUDGE},
            "eval_dataset": "",
            "dataset_uri": "",
            "instruction": "",  # the rows have it
            "seed": seed,
            "model_display_name": model_display_name,
            "registry_dir": str(self.registry),
            "deploy_model": False,
            **{parameter: data_path(self._data_folder, name) for parameter, name in data.items()},
        }
        taken = {parameter.name for parameter in PIPELINES[pipeline]}
        return check_parameters(
            pipeline, {name: value for name, value in given.items() if name in taken} | dict(own or {})
        )

    def _run(
        self, pipeline: str, arguments: dict[str, Value], *, name: str, label: str
    ) -> tuple[Mapping[str, Any], int]:
        """Run a pipeline unless its outputs are there; return its outputs, and its status if it failed, or 0."""
        outputs = self.folder / "made" / f"{name}-{_digest([*self.identity, arguments])}.json"
        label = label[:1].upper() + label[1:]
        if found := _read_outputs(outputs):
            self.display.say(f"{label}: trained before")
            return found, 0
        outputs.parent.mkdir(exist_ok=True)
        self.display.say(f"\n{label}")
        run = LocalRun(
            name=pipeline,
            target=f"rlhf_pipelines.{pipeline}:{pipeline}",
            arguments=arguments,
            pipeline_root=self.root,
            outputs=outputs,
        )
        status = run_locally(run, self.display)
        return _read_outputs(outputs) if status == 0 else {}, status

    # Answers and judges.

    def report(self) -> MethodsReport:
        """Have all models answer, and all judges compare."""
        asked = self.asked
        own = {f"{name}.{key}": value for name, given in asked.own.items() for key, value in given.items()}
        return MethodsReport(
            found=self._judged(),
            base_model=split_revision(self.base)[0],
            created=time.strftime("%Y-%m-%d %H:%M"),
            price_per_hour=asked.price_per_hour,
            budget=f"{asked.minutes:g} minutes" if asked.minutes is not None else "",
            data={name.replace("_", " "): count for name, count in self.data.rows.items()},
            parameters={**self.values, **own},
            models={
                f"{METHODS[name].label}, seed {seed}": self._call(made) for (name, seed), made in self.made.items()
            },
            command=shlex.join(["rlhf", *asked.command]) if asked.command else "",
        )

    def _call(self, made: Mapping[str, Any]) -> str:
        """Return the command that asks a tuned model."""
        model = str(made["parameters"][MODEL]).removeprefix("models/")
        words = ["rlhf", "predict", "--model", model, "--registry-dir", shown(self.registry)]
        return shlex.join([*words, "--prompt", EXAMPLE_PROMPT])

    def _judged(self) -> MethodComparison:
        from rlhf_tuning.evaluation.evaluate import EvaluationConfig
        from rlhf_tuning.evaluation.method_answers import compare_answers

        asked = self.asked
        config = EvaluationConfig(
            **{key: self.values[key] for key in _OF_THE_EVALUATION}  # type: ignore[arg-type]
        )
        names = [BASE, *asked.trained, *([BEST_OF_N] if BEST_OF_N in asked.methods else [])]
        rewarded = {
            seed: _path(made, "reward_model") for (name, seed), made in self.made.items() if name == _REWARDS_FROM
        }
        return compare_answers(
            config,
            [self._contestant(name) for name in names],
            {
                name: {seed: self._answered(name, seed, rewarded.get(seed, "")) for seed in asked.seeds}
                for name in names
            },
            models={
                name: {seed: _path(self.made[name, seed], "model") for seed in asked.seeds} for name in asked.trained
            },
            reward_models=rewarded,
            judging_reward_model_dir=_path(self.judge, "reward_model") if self.judge else "",
            choices_path=self.data.path("choices"),
        )

    def _answered(self, name: str, seed: int, reward_model_dir: str) -> Path:
        """Return the file of a method's answers, written unless it is there."""
        from rlhf_tuning.evaluation import method_answers
        from rlhf_tuning.generation.inference import InferenceConfig

        model = _path(self.made[name, seed], "model") if name in METHODS else self.base
        config = InferenceConfig(
            large_model_reference=model,
            seed=seed,
            **{key: self.values[key] for key in _OF_THE_ANSWERS},  # type: ignore[arg-type]
        )
        prompts = self.data.path("eval_prompts")
        samples = self.asked.samples if name == BEST_OF_N else 1
        chosen_by = reward_model_dir if name == BEST_OF_N else ""
        digest = _digest([*self.identity, asdict(config), samples, chosen_by])
        file = self.folder / "answers" / f"{name}-seed-{seed}-{digest}.jsonl"
        file.parent.mkdir(exist_ok=True)
        label = f"answers of {self._label(name)}, seed {seed}"
        if name == BEST_OF_N:
            method_answers.answer_with_best(
                config, samples=samples, reward_model_dir=chosen_by, prompts_path=prompts, path=file, label=label
            )
        else:
            method_answers.answer(config, prompts_path=prompts, path=file, label=label)
        return file

    def _label(self, name: str) -> str:
        if name == BASE:
            return "the base model"
        return METHODS[name].label if name in METHODS else f"best of {self.asked.samples}"

    def _contestant(self, name: str) -> Contestant:
        seconds = {}
        if name != BASE:
            of, artifact = (name, "model") if name in METHODS else (_REWARDS_FROM, "reward_model")
            seconds = {
                seed: step_times.seconds_to(self.made[of, seed]["artifacts"][artifact]["metadata"])
                for seed in self.asked.seeds
            }
        return Contestant(
            name=name,
            label=self._label(name),
            answers={},
            seconds=seconds,
            forecast=self.forecast.get(name),
            steps=self.steps.get(name, 0),
            samples=self.asked.samples if name == BEST_OF_N else 1,
        )


_OF_THE_ANSWERS = ("prompt_sequence_length", "target_sequence_length", "temperature", "dtype", "inference_engine")
_OF_THE_EVALUATION = (
    "large_model_reference",
    "prompt_sequence_length",
    "target_sequence_length",
    "temperature",
    "scorer",
    "dtype",
    *OF_A_JUDGE,
)


def _weights(reference: str) -> str:
    """Return what changes with the weights of a model; of one of the hub, its name."""
    folder = local_folder(reference) if reference else None
    return content_fingerprint(folder) if folder else reference


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _read_outputs(file: Path) -> Mapping[str, Any]:
    """Return what a run made; nothing unless all of it is there."""
    if not file.is_file():
        return {}
    outputs: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kept = ("model", "adapter", "reward_model")
    there = all(Path(_path(outputs, name)).is_dir() for name in kept if name in outputs["artifacts"])
    return outputs if there else {}


def _path(made: Mapping[str, Any], artifact: str) -> str:
    return str(made["artifacts"][artifact]["path"])
