"""A run that was stopped goes on to the bits of one that was not."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import main_in
from omegaconf import OmegaConf
from unchanged import nothing_changed

from lrexp.__main__ import main
from lrexp.build.experiment import build
from lrexp.commands.answer import answer, ended
from lrexp.config.errors import Terminated, UserError
from lrexp.folder.checkpoint import load_checkpoint, load_last, save_checkpoint
from lrexp.judge.epoch import Row
from lrexp.record.jsonl import SYNC_ROWS
from lrexp.session.single import continue_run
from lrexp.train.loop import Trainer
from lrexp.train.measure import RunningTrain, StepStats, correct_images
from lrexp.train.signals import signals_stop, whole

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = (
    "trainer.device=cpu", "data.leak_check=skip",
    "trainer.epochs=4", "trainer.limit_train_batches=5", "trainer.stats_every=2",
    "data.batch_size=64",
)  # fmt: skip
COMMAND = ("model=mlp", "model.dropout=0.2", *SMALL, "logger=none", "trainer.resume=auto")
OPTIONS = {
    **{name: [f"optimizer={name}"] for name in (
        "adam", "adamw", "lamb", "lion", "muon", "nadam", "radam", "adagrad", "adafactor",
        "rmsprop", "schedulefree_adamw", "schedulefree_sgd", "sgd",
    )},
    "timm": ["optimizer=timm", "optimizer.name=adamp"],
    "torch": ["optimizer=torch", "optimizer.name=Adamax"],
    "plateau": [
        "scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.3",
        "scheduler.threshold=0.5",  # nothing is good enough: a lower rate after every epoch
    ],
    "one_cycle": ["scheduler=one_cycle"],
    "clipping": ["trainer.clip_grad_norm=0.5", "scheduler=cosine", "scheduler.warmup=0.3"],
    "patience": ["trainer.patience=1", "optimizer.lr=3", "optimizer.momentum=0"],
    "batchnorm": ["model=cifar_resnet", "model.depth=20", "trainer.limit_train_batches=2"],
    "averaged batchnorm": [
        "model=cifar_resnet", "model.depth=20", "trainer.limit_train_batches=2",
        "optimizer=schedulefree_sgd", "trainer.epochs=2",
    ],
    **{policy: [f"lr_policy={policy}"] for policy in (
        "auto_rgn", "bias_norm_only", "discriminative", "freeze_backbone", "freezeout",
        "gradual_unfreeze", "layerwise_decay", "surgical", "ulmfit",
    )},
    "lp_ft": ["lr_policy=lp_ft", "lr_policy.head_epochs=1"],
}  # fmt: skip
QUICK = ("adam", "auto_rgn", "freezeout", "muon", "patience", "plateau")
POINTS = {
    "within an epoch": 8,  # of 20 steps, 5 an epoch
    "before an edge": 5,
    "behind an edge": 6,
    "at an epoch's last step": 10,
}


@pytest.fixture(autouse=True)
def _logs_closed() -> Iterator[None]:
    yield
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()


@pytest.fixture
def prepare(compose: Any) -> Callable[..., Trainer]:
    """A function from overrides to a trainer that has not trained yet."""

    def prepared(*overrides: str) -> Trainer:
        model = () if "model=cifar_resnet" in overrides else ("model=mlp", "model.dropout=0.2")
        config = compose(*model, *SMALL, *overrides)
        return Trainer(build(config), config.trainer, config.data.batch_size, config.seed)

    return prepared


class Silent:
    def row(self, row: Row) -> None: ...


def timeless(rows: list[Row]) -> list[Row]:
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def everything(trainer: Trainer) -> dict[str, Any]:
    """A trainer's state but for what a clock says; tensors as lists, so that == sees every bit."""
    state = trainer.state()
    state["rows"] = timeless(state["rows"])

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return plain(state)


def stop_in_step(trainer: Trainer, step: int) -> None:
    """Let a real signal arrive while the forward pass of a step (from 1) is made."""
    loss = trainer.experiment.loss

    def interrupted(logits: Any, labels: Any) -> Any:
        in_step = trainer.current is not None and trainer.current.seen is None
        if trainer.step + 1 == step and in_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(logits, labels)

    trainer.experiment = dataclasses.replace(trainer.experiment, loss=interrupted)


def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let it arrive in an evaluation; there are two in every epoch."""
    import lrexp.train.loop

    evaluate, calls = lrexp.train.loop.evaluate_split, [0]

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr(lrexp.train.loop, "evaluate_split", interrupted)


def stopped(trainer: Trainer, file: Path) -> dict[str, Any]:
    """Train until a signal stops it; the state as a file gives it back."""
    with signals_stop(), pytest.raises(Terminated):
        trainer.run(Silent())
    save_checkpoint(file, trainer.state())
    return load_checkpoint(file)


# --- The same bits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=() if o in QUICK else pytest.mark.slow) for o in sorted(OPTIONS)],
)
def test_a_run_stopped_in_a_step_ends_with_the_bits_of_one_that_was_not(
    prepare: Callable[..., Trainer], tmp_path: Path, option: str
) -> None:
    through = prepare(*OPTIONS[option])
    through.run(Silent())
    assert len(through.rows) > 1
    short = "trainer.limit_train_batches=2" in OPTIONS[option]
    first = prepare(*OPTIONS[option])
    stop_in_step(first, 3 if short else 8)
    state = stopped(first, tmp_path / "last.pt")
    assert state["step"] == (3 if short else 8)  # the step that it came in was made
    assert state["current"]
    rest = prepare(*OPTIONS[option])
    rest.load_state(state)
    rest.run(Silent())
    assert timeless(rest.rows) == timeless(through.rows)
    assert everything(rest) == everything(through)


@pytest.mark.parametrize("point", sorted(POINTS))
@pytest.mark.parametrize("policy", ["freezeout", "gradual_unfreeze", "lp_ft"])
def test_no_edge_of_freezing_is_missed(
    prepare: Callable[..., Trainer], tmp_path: Path, policy: str, point: str
) -> None:
    overrides = [f"lr_policy={policy}", "optimizer=adam"]
    overrides += ["lr_policy.head_epochs=1"] if policy == "lp_ft" else []
    through = prepare(*overrides)
    through.run(Silent())
    first = prepare(*overrides)
    stop_in_step(first, POINTS[point])
    rest = prepare(*overrides)
    rest.load_state(stopped(first, tmp_path / "last.pt"))
    rest.run(Silent())
    assert everything(rest) == everything(through)


@pytest.mark.parametrize("optimizer", ["adam", "schedulefree_adamw"])
@pytest.mark.parametrize("number", [3, 4])
def test_a_run_stopped_while_it_evaluates_makes_no_step_twice(
    prepare: Callable[..., Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    number: int,
) -> None:
    through = prepare(f"optimizer={optimizer}")
    through.run(Silent())
    with monkeypatch.context() as patch:
        stop_in_evaluation(patch, number)
        state = stopped(prepare(f"optimizer={optimizer}"), tmp_path / "last.pt")
    assert (state["epoch"], state["step"], len(state["rows"])) == (2, 10, 1)
    rest = prepare(f"optimizer={optimizer}")
    rest.load_state(state)
    rest.run(Silent())
    assert everything(rest) == everything(through)


@pytest.mark.parametrize("left_out", ["running", "stats", "first_step"])
def test_the_bits_need_what_the_state_says_of_its_epoch(
    prepare: Callable[..., Trainer], tmp_path: Path, left_out: str
) -> None:
    # The tests above can fail: without a part of the state, the numbers differ.
    through = prepare()
    through.run(Silent())
    first = prepare()
    stop_in_step(first, 8)
    state = stopped(first, tmp_path / "last.pt")
    without = {"running": torch.zeros(3, 0), "stats": {}, "first_step": state["step"]}
    state["current"][left_out] = without[left_out]
    rest = prepare()
    rest.load_state(state)
    rest.run(Silent())
    assert timeless(rest.rows) != timeless(through.rows)


def test_sums_over_an_epoch_do_not_depend_on_where_it_was_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand((), generator=generator), torch.randn(7, 3, generator=generator),
         torch.randint(3, (7,), generator=generator))
        for _ in range(600)
    ]  # fmt: skip

    def add(running: RunningTrain, loss: Any, logits: Any, labels: Any) -> None:
        running.add(loss, correct_images(logits, labels), len(labels))

    one, two, rest = RunningTrain(), RunningTrain(), RunningTrain()
    for batch in batches:
        add(one, *batch)
    for batch in batches[:301]:
        add(two, *batch)
    rest.load_state(two.state())
    for batch in batches[301:]:
        add(rest, *batch)
    assert rest.means() == one.means()
    right = sum(int((logits.argmax(1) == labels).sum()) for _, logits, labels in batches)
    assert one.means()[1:] == (right / 4200, 4200)


def test_measured_steps_are_kept_apart_from_their_epoch(prepare: Callable[..., Trainer]) -> None:
    experiment = prepare().experiment
    stats = StepStats(experiment.model, experiment.plan)
    stats.add_gradient(torch.tensor(3.0))
    stats.add_ratios(torch.arange(float(len(stats.names))))
    again = StepStats(experiment.model, experiment.plan)
    again.load_state(stats.state())
    assert again.medians() == stats.medians() != {}


def test_other_data_are_refused_unless_told(prepare: Callable[..., Trainer]) -> None:
    trainer = prepare()
    state = trainer.state()
    state["fingerprints"] = {"data": "of then"}
    with pytest.raises(UserError, match=r"data changed since the checkpoint\n.*of then → "):
        prepare().load_state(state)
    prepare().load_state(state, allow_data_change=True)


# --- Files ----------------------------------------------------------------------------------


def test_a_cut_or_changed_last_state_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "last.pt"
    for epoch in (1, 2):
        save_checkpoint(file, {"epoch": epoch, "step": 0, "w": torch.full((500,), float(epoch))})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(torch.full((500,), 2.0).numpy().tobytes()) + 7] ^= 1
    for damaged in (b"", content[:100], content[:-1], bytes(flipped)):
        caplog.clear()
        file.write_bytes(damaged)
        state = load_last(tmp_path)
        assert state is not None
        assert state["epoch"] == 1
        assert "last.pt is damaged" in caplog.text
        assert "previous.pt, epoch 1" in caplog.text
    # torch alone does not see the flipped bit, so the checksums are what found it
    assert load_checkpoint(file)["epoch"] == 2
    (tmp_path / "previous.pt").write_bytes(content[:50])
    with pytest.raises(UserError, match=r"last.pt is damaged[^!]*\n.*previous.pt is damaged"):
        load_last(tmp_path)


def test_a_state_of_something_else_is_one_message(
    run: Run, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, best = (halted / "checkpoints" / name for name in ("last.pt", "best.pt"))
    state = load_checkpoint(last)
    (halted / "checkpoints" / "previous.pt").unlink(missing_ok=True)
    other = state | {"model": {name: w[..., :1] for name, w in state["model"].items()}}
    for content in (load_checkpoint(best), {"epoch": 1, "step": 0}, [1, 2], other):
        torch.save(content, last)
        capsys.readouterr()
        assert run()[0] == 2
        said = capsys.readouterr().err
        assert "HYDRA_FULL_ERROR" not in said
        assert "start a new run" in said
    save_checkpoint(last, state)
    assert run()[0] == 0


def test_a_state_leaves_to_the_record_the_rows_that_it_surely_has(
    prepare: Callable[..., Trainer],
) -> None:
    first = prepare("trainer.epochs=3", "trainer.limit_train_batches=1")
    first.run(Silent())
    whole = first.rows
    assert [row["epoch"] for row in first.state()["rows"]] == [1, 2, 3]
    first.recorded = 2
    state = first.state()
    assert (state["rows_before"], [row["epoch"] for row in state["rows"]]) == (2, [3])
    # behind the state, which is saved first; as far; and ahead, where an older state is taken
    for known in (whole[:2], whole, [*whole, whole[-1] | {"epoch": 4}]):
        again = prepare("trainer.epochs=3", "trainer.limit_train_batches=1")
        again.load_state(state, recorded=known)
        assert again.rows == whole
    former = {key: value for key, value in state.items() if key != "rows_before"} | {"rows": whole}
    again.load_state(former)
    assert again.rows == whole
    for lacking, lost in (([], 2), (whole[:1], 1), (whole[1:], 1), ([whole[0], whole[2]], 1)):
        said = f"metrics.jsonl lacks {lost} of the first 2 epochs"
        with pytest.raises(UserError, match=said):
            again.load_state(state, recorded=lacking)


def test_without_a_checkpoint_there_is_no_state(tmp_path: Path) -> None:
    assert load_last(tmp_path) is None


def test_a_signal_waits_for_the_end_of_what_is_whole_and_is_not_lost() -> None:
    done = []

    def act() -> None:
        with whole():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
                with whole():
                    done.append(1)
        done.append("behind it")

    with signals_stop() as asked, pytest.raises(Terminated):
        act()
    assert done == [1, 1, 1]
    assert len(asked) == 3


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    saved = []

    def act() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Terminated:
            os.kill(os.getpid(), signal.SIGTERM)  # before anything could be protected
            with whole():
                saved.append(1)
            raise

    with signals_stop(), pytest.raises(Terminated):
        act()
    assert saved


# --- Commands -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Path]]:
    """A function from overrides to exit code and folder; with `at`, stopped in that step."""

    def ran(*overrides: str, at: int | None = None, name: str = "run") -> tuple[int, Path]:
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            if at is not None:
                stop_next_in_step(patch, at)
            return main([*COMMAND, *overrides, f"hydra.run.dir={folder}"]), folder

    return ran


def stop_next_in_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the signal arrive in a step of the next trainer."""
    begin = Trainer._begun

    def begun(trainer: Trainer) -> Any:
        if not hasattr(trainer, "_to_stop"):
            trainer._to_stop = True  # type: ignore[attr-defined]
            stop_in_step(trainer, step)
        return begin(trainer)

    patch.setattr(Trainer, "_begun", begun)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of COMMAND that nothing stopped, for reading."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with nothing_changed():
        torch.set_num_threads(1)
        assert main_in(folder.parent, *COMMAND, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of COMMAND, stopped in its eighth step, for copies."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, nothing_changed():
        torch.set_num_threads(1)
        stop_next_in_step(patch, 8)
        assert main_in(folder.parent, *COMMAND, f"hydra.run.dir={folder}") == 143
    return folder


@pytest.fixture
def halted(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of that, where `run` goes on with it."""
    return Path(shutil.copytree(stopped_once, tmp_path / "run"))


Run = Callable[..., tuple[int, Path]]


def rows_of(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def same_outcome(one: Path, other: Path) -> bool:
    weights = [load_checkpoint(f / "checkpoints" / "best.pt")["model"] for f in (one, other)]
    return (
        timeless(rows_of(one)) == timeless(rows_of(other))
        and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        and summary_of(one)["test"] == summary_of(other)["test"]
    )


def test_the_same_command_goes_on_and_then_has_nothing_to_do(
    run: Run, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, folder = run(at=8)
    said = capsys.readouterr().out
    assert code == 143
    assert summary_of(folder)["status"] == "interrupted"
    assert f"resume lrexp rerun {folder} --resume" in said
    before = summary_of(folder)["run_id"]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 10}\n{"epoch": 3, "st')  # beyond the state, and torn
    assert run()[0] == 0
    assert "resume from epoch 2, step 8" in capsys.readouterr().out
    assert same_outcome(folder, whole_run)
    summary = summary_of(folder)
    assert (summary["status"], summary["run_id"]) == ("finished", before)
    assert summary["resumed"] == [{"epoch": 2, "step": 8, "changes": []}]
    assert not [*folder.rglob("*.tmp"), *folder.rglob("previous.pt")]
    content = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run()[0] == 0
    assert "it is finished: nothing to do" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == content


def test_states_do_not_grow_with_the_epochs_and_no_row_is_lost(run: Run) -> None:
    longer = ("trainer.epochs=30", "trainer.limit_train_batches=1")
    code, folder = run(*longer, at=28)
    assert code == 143
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert state["rows_before"] + len(state["rows"]) == 27
    assert len(state["rows"]) <= SYNC_ROWS
    assert run(*longer)[0] == 0
    assert [row["epoch"] for row in rows_of(folder)] == list(range(1, 31))


def test_steps_between_are_saved_when_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    import lrexp.train.state

    save = lrexp.train.state.save_checkpoint

    def noted(file: Path, state: dict[str, Any], synced: bool = False) -> None:
        steps.append((file.name, state.get("step", -1)))
        assert synced == (file.name == "last.pt")
        save(file, state, synced)

    monkeypatch.setattr(lrexp.train.state, "save_checkpoint", noted)
    assert run("trainer.checkpoint_every_steps=3", "trainer.epochs=2")[0] == 0
    assert [step for name, step in steps if name == "last.pt"] == [3, 5, 6, 9, 10]


def test_other_settings_are_refused_and_shown(
    run: Run, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {p: p.read_bytes() for p in halted.rglob("*") if p.is_file()}
    assert run("trainer.epochs=6", "optimizer.lr=0.01")[0] == 2
    said = capsys.readouterr().err
    assert "trainer.epochs: 4 → 6" in said
    assert f"{halted} --resume optimizer.lr=0.01 trainer.epochs=6" in said
    assert {p: p.read_bytes() for p in halted.rglob("*") if p.is_file()} == content


def test_a_sweep_or_a_damaged_summary_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "multirun.yaml").touch()
    assert run()[0] == 2
    (folder / "multirun.yaml").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "summary.json").write_text('{"status": "runn')
    assert run()[0] == 2
    said = capsys.readouterr().err
    assert "holds a sweep" in said
    assert "summary.json cannot be read" in said
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoints", "summary.json"]


def test_a_run_stopped_before_it_had_written_its_config_starts_anew(
    run: Run, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrexp.tasks.train

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(lrexp.tasks.train.Training, "start", stop)
        code, folder = run()
    assert (code, summary_of(folder)["status"]) == (143, "interrupted")
    assert not (folder / "config.yaml").exists()
    assert run()[0] == 0
    assert same_outcome(folder, whole_run)


def test_a_run_that_died_before_its_first_state_starts_anew_under_its_id(
    run: Run, halted: Path, whole_run: Path
) -> None:
    for file in (halted / "checkpoints").iterdir():
        file.unlink()
    run_id = summary_of(halted)["run_id"]
    assert run()[0] == 0
    assert summary_of(halted)["run_id"] == run_id
    assert same_outcome(halted, whole_run)


def test_a_run_stopped_after_its_last_epoch_is_concluded(
    run: Run, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrexp.tasks.train import Training

    with monkeypatch.context() as patch:
        patch.setattr(Training, "conclude", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        code, folder = run()
    assert (code, summary_of(folder)["status"]) == (143, "interrupted")
    assert run()[0] == 0
    assert same_outcome(folder, whole_run)


@pytest.mark.parametrize("best", ["cut", "gone", "of another epoch"])
def test_the_best_weights_are_the_ones_the_state_speaks_of(
    run: Run, halted: Path, whole_run: Path, best: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = halted / "checkpoints" / "best.pt"
    if best == "cut":
        os.truncate(file, 200)
    elif best == "gone":
        file.unlink()
    else:
        save_checkpoint(file, load_checkpoint(file) | {"epoch": 3})
    assert run()[0] == 0
    assert "best.pt is" in capsys.readouterr().err
    assert same_outcome(halted, whole_run)  # a later epoch was better


def test_what_changed_is_kept_as_a_whole(halted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml is written anew: nothing else says what the run began with.

    Nor is what the stopped epoch had taken lost from the time that training took.
    """
    last = halted / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    save_checkpoint(last, {**state, "current": {**state["current"], "elapsed_s": 1000.0}})
    rules = "[{match: '*.weight', scale: 1.0}, {match: '*.bias', scale: 0.9}]"
    policy = ("lr_policy=per_layer", f"lr_policy.rules={rules}")
    assert main_in(halted.parent, "rerun", str(halted), "--resume", *policy) == 0
    (change,) = (c for c in summary_of(halted)["resumed"][0]["changes"] if "rules" in c)
    for part in ("*.weight", "*.bias", "0.9"):
        assert part in change
    assert change in capsys.readouterr().out
    timings = summary_of(halted)["timings"]
    assert 1000 < timings["steps_s"] < timings["train_s"] < timings["total_s"]


def resumed(folder: Path, *overrides: str, **named: bool) -> int:
    config: Any = OmegaConf.load(folder / "config.yaml")
    for override in overrides:
        key, _, value = override.partition("=")
        OmegaConf.update(
            config,
            key,
            OmegaConf.create({"v": None}).v
            if value == "null"
            else __import__("yaml").safe_load(value),
        )
    return answer(lambda: ended(continue_run(folder, config, list(overrides), **named)))


def test_a_finished_run_goes_on_when_there_is_something_to_train(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, longer = run("trainer.epochs=6", name="longer")  # constant rate: the same first epochs
    _, folder = run()
    content = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert resumed(folder) == 2
    assert "nothing is left to train" in capsys.readouterr().err
    now = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}
    assert now == {p: content[p] for p in now}
    assert resumed(folder, "trainer.epochs=6") == 0
    assert "change trainer.epochs: 4 → 6" in capsys.readouterr().out
    assert same_outcome(folder, longer)
    assert OmegaConf.load(folder / "config.yaml").trainer.epochs == 6
    assert resumed(folder, "trainer.epochs=5") == 2  # less than it has trained
    assert "has trained 30 steps, and these settings end after 25" in capsys.readouterr().err


def test_a_length_that_is_relative_to_training_does_not_move_unasked(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run("lr_policy=lp_ft")  # 0.33 of 4 epochs: the head alone for 1
    before = (folder / "config.yaml").read_bytes()
    assert resumed(folder, "trainer.epochs=8") == 2
    said = capsys.readouterr().err
    assert "lr_policy.head_epochs=0.33: is relative to the length of training, 4 epochs" in said
    assert "write lr_policy.head_epochs=1 to keep the plan as it was" in said
    assert "or lr_policy.head_epochs=3 to go on under the new one" in said
    assert (folder / "config.yaml").read_bytes() == before
    assert resumed(folder, "trainer.epochs=8", "lr_policy.head_epochs=1") == 0
    assert "the plan has changed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.max_steps=7"], "trainer.max_steps=7 ended it: a larger one, or null, adds"),
        (["trainer.max_steps=20"], "trainer.epochs=4 and trainer.max_steps=20 both end it"),
        (["trainer.max_steps=21"], "a larger trainer.epochs adds epochs"),
        (["trainer.patience=1", "optimizer.lr=1e-12", "trainer.monitor=val/accuracy"],
         "stopped by no better val/accuracy for trainer.patience=1 epochs"),
        (["optimizer.lr=1e30"], "nothing goes on from there: start a new run; a lower"),
    ],
)  # fmt: skip
def test_what_ended_a_run_is_named_where_it_cannot_go_on(
    run: Run, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    _, folder = run(*overrides)
    assert resumed(folder) == 2
    assert said in capsys.readouterr().err


def planned(folder: Path) -> list[tuple[int, float]]:
    """Step and rate of every line of schedule.csv."""
    lines = csv.DictReader((folder / "schedule.csv").read_text().splitlines())
    return [(int(line["step"]), float(line["lr/all"])) for line in lines]


def test_a_rate_that_jumps_over_more_epochs_is_said_and_what_was_trained_stays(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run("scheduler=cosine")
    before = planned(folder)
    assert len(before) == 20
    assert resumed(folder, "trainer.epochs=6") == 0
    said = capsys.readouterr().out
    after = planned(folder)
    assert after[:20] == before
    assert [step for step, _ in after] == list(range(30))
    last, coming = before[-1][1], after[20][1]
    assert f"jump: all was trained last at {last:.3g} and goes on at {coming:.3g}" in said
    assert f"scheduler=constant optimizer.lr={last:.3g}" in said
    assert said.index("jump: ") < said.index("\n    5  ")  # before training
    rows = rows_of(folder)
    assert [row["lr/all"] for row in rows] == [after[step][1] for step in range(4, 30, 5)]
    assert coming > 3 * last


def test_a_rate_that_does_not_jump_is_not_said_to(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run("scheduler=cosine")
    last = planned(folder)[-1][1]
    level = f"optimizer.lr={last:.3g}"
    assert resumed(folder, "trainer.epochs=6", "scheduler.name=constant", level) == 0
    assert "jump: " not in capsys.readouterr().out
    assert planned(folder)[19:] == [(19, last), *((s, float(f"{last:.3g}")) for s in range(20, 30))]
    _, other = run("scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.1", name="other")
    assert resumed(other, "trainer.epochs=6") == 0  # it falls, as it would have without a stop
    assert "jump: " not in capsys.readouterr().out


def test_a_row_has_the_rate_that_was_trained_where_no_step_is_left(run: Run) -> None:
    code, folder = run("scheduler=cosine", at=10)  # the last step of epoch 2, which has no row yet
    assert (code, len(rows_of(folder))) == (143, 1)
    last = planned(folder)[9][1]
    assert resumed(folder, "trainer.epochs=6") == 0
    assert rows_of(folder)[1]["lr/all"] == last


@pytest.mark.parametrize(
    "override",
    ["seed=1", "data.batch_size=32", "model.dropout=0.5", "trainer.monitor=val/accuracy"],
)
def test_what_cannot_change_in_a_run_is_refused(
    halted: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    capsys.readouterr()
    assert resumed(halted, override) == 2
    said = capsys.readouterr().err
    assert override in said
    assert "cannot change in a run that goes on" in said
    assert not (halted / ".lock").exists()


def test_a_changed_rate_and_policy_are_shown_and_taken(
    halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(halted, "optimizer.lr=0.001") == 0
    assert "change optimizer.lr: 0.05 → 0.001" in capsys.readouterr().out
    assert [row["lr/all"] for row in rows_of(halted)] == [0.05, 0.001, 0.001, 0.001]


def test_a_folder_without_a_run_cannot_go_on(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="holds no run"):
        continue_run(tmp_path, OmegaConf.create({}), [])


def test_checkpoint_settings_do_not_change_a_configs_id(compose: Any) -> None:
    from lrexp.config.check import config_id

    plain = OmegaConf.structured(compose(*SMALL))
    saving = OmegaConf.structured(
        compose(*SMALL, "trainer.resume=auto", "trainer.checkpoint_every_steps=5")
    )
    assert config_id(plain) == config_id(saving)
    assert config_id(plain) != config_id(OmegaConf.structured(compose(*SMALL, "trainer.epochs=5")))


@pytest.mark.slow
def test_the_wandb_run_goes_on_without_gap_or_repeat(run: Run) -> None:
    from wandb_log import read_log

    _, folder = run("logger=wandb", "logger.mode=offline", at=13)
    assert run("logger=wandb", "logger.mode=offline")[0] == 0
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    epochs = [[int(row["epoch"]) for row in read_log(file).history] for file in files]
    assert epochs == [[1, 2], [3, 4]]
    run_id = summary_of(folder)["run_id"]
    assert {file.stem.removeprefix("run-") for file in files} == {run_id}
