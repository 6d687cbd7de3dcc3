"""The server's end under Flower: a grid around the one that Flower gives to a ServerApp."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from secagg.integrations.folder import PartyFolder
from secagg.integrations.layout import Layout, Metrics
from secagg.integrations.rounds import RoundReport, Rounds
from secagg_protocols.errors import MisuseError, PeerError, SecAggError, ThresholdError
from secagg_protocols.events import Aggregate

from . import failures, strategies
from .carrier import Carrier
from .config import SKIP_ROUND, SecAggConfig
from .nodes import Nodes
from .records import (
    EVALUATE,
    KEY,
    TRAIN,
    Setting,
    arrays_of,
    category,
    check_names,
    model_of,
    pack,
    replies_of,
    settings_of,
    unpack,
)

log: Final = logging.getLogger("secagg.integrations")

#: Seconds that nodes have to say who they are, where the configuration gives no time.
HELLO_SECONDS: Final = 180.0
#: Seconds between two looks at whether enough sites are there, as Flower's strategies wait.
_WAIT_SECONDS: Final = 1.0


class SecAggGrid(Grid):
    """Flower's grid, with a secure sum in place of the exchange of training messages.

    grid: the one that Flower gave. config: see :class:`SecAggConfig`. strategy: the one that uses
    this grid, where it is not a :class:`flwr.serverapp.strategy.Strategy` that calls it itself.

    A strategy's training messages go to the sites that it sampled, and it gets one reply for each
    site in the sum: the weighted mean, with a part of the total weight, and the metrics that the
    configuration names; for each other one an error. Only sites of the plan's roster are listed as
    nodes. Strategies that need single updates are refused before anything is sent
    (:class:`MisuseError`, ``strategy``). A round without a sum raises what ended it, or leaves the
    model unchanged where the configuration says ``skip_round``. ``reports`` has one entry a round.
    """

    def __init__(self, grid: Grid, config: SecAggConfig, strategy: Strategy | None = None) -> None:
        if not isinstance(grid, Grid) or not isinstance(config, SecAggConfig):
            raise MisuseError("a flwr Grid and a SecAggConfig are needed", rule="arguments")
        if strategy is not None and not isinstance(strategy, Strategy):
            raise MisuseError("the strategy is no flwr.serverapp.strategy", rule="arguments")
        _show_log()
        self._grid, self.config, self._strategy = grid, config, strategy
        given = config.folder
        self._folder = given if isinstance(given, PartyFolder) else PartyFolder(given)
        self._train = self._rounds(TRAIN)
        self._evaluate = self._rounds(EVALUATE) if config.evaluate_metrics else None
        self._nodes = Nodes(self._train)
        # Who takes part in evaluation is asked with its own messages, since the mod may be missing
        # from that function of the app.
        self._others = None if self._evaluate is None else Nodes(self._evaluate)
        self._checked: list[tuple[Strategy, str]] = []
        self._count = {TRAIN: 0, EVALUATE: 0}
        self._timeout: float | None = None
        self._ended: list[Rounds] = []
        self._summed = False  # in the present session of training
        self._told_withheld: set[str] = set()

    def _rounds(self, task: str) -> Rounds:
        config = self.config
        chosen = config.plan if task == TRAIN else config.evaluate
        plan = self._folder.plan(task) if chosen is None else chosen
        if task == EVALUATE:
            try:
                Metrics(config.evaluate_metrics).check(plan, Layout.of({}))
                Metrics(config.evaluate_metrics).tell_steps(plan, Layout.of({}))
            except MisuseError as error:
                text = str(error).removesuffix(f" [{error.rule}]")
                raise MisuseError(f"the plan for evaluation: {text}", rule=error.rule) from None
        if task == TRAIN and plan.max_weight == 1:
            log.info("secagg: max_weight of the plan is 1: every site counts the same")
        return Rounds(
            plan,
            identity=self._folder.identity,
            folder=self._folder,
            task=task,
            propose=config.propose,
            threads=config.threads,
        )

    @property
    def reports(self) -> list[RoundReport]:
        """What became of each round, of training first, then of evaluation."""
        return self._train.reports + (self._evaluate.reports if self._evaluate else [])

    def finish(self) -> None:
        """End the sessions: sites erase what they keep of them. Not needed after
        ``Strategy.start``, or as many rounds as the configuration says."""
        for rounds in (self._train, self._evaluate):
            if rounds is not None and rounds.reports:
                self._end(rounds)

    def __enter__(self) -> Self:
        """For ``with SecAggGrid(...) as grid``: the sessions are ended at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the sessions, where the rounds did not."""
        self.finish()

    # Flower's interface.

    def set_run(self, run: Any) -> None:
        """As of the inner grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As of the inner grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As of the inner grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are sites of the roster. New nodes are asked who they are.

        Before its first round a strategy waits here until there are as many as a sum of the plan
        needs. :class:`ThresholdError` (``no-parties``) where too few can ever take part.
        """
        for strategy in strategies.calling():  # what is refused by name is so before a word is sent
            strategies.check_named(strategy)
        listed, enough = self._found()
        # A strategy counts the nodes, and then waits for two or three of them and samples as many.
        while not enough and not self._train.begun and strategies.running() is not None:
            time.sleep(_WAIT_SECONDS)
            listed, enough = self._found()
        return [node for node in self._nodes.sites if node in listed]

    def _found(self) -> tuple[list[int], bool]:
        """The nodes that are there, and whether enough of them are sites."""
        listed = list(self._grid.get_node_ids())
        self._nodes.find(listed, functools.partial(self._greet, task=TRAIN))
        begun = self._train.begun
        enough = self._nodes.check_enough(listed, begun=begun)
        if self._others is not None:
            # What evaluation lacks is found before anybody trains.
            self._others.find(listed, functools.partial(self._greet, task=EVALUATE))
            enough = self._others.check_enough(listed, begun=begun) and enough
        return listed, enough

    def get_nodes(self) -> Iterable[Any]:
        """What Flower knows of these nodes."""
        sites = set(self.get_node_ids())
        return [info for info in self._grid.get_nodes() if info.node_id in sites]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As of the inner grid, for queries. :class:`MisuseError` (``grid-push``) for messages that
        ask for results: these are summed by ``send_and_receive`` only."""
        given = list(messages)
        if any(category(message) in {TRAIN, EVALUATE} for message in given):
            raise MisuseError(
                "messages of training and evaluation go through send_and_receive, which sums "
                "their replies",
                rule="grid-push",
            )
        return self._grid.push_messages(given)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As of the inner grid: replies to queries."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """A secure sum for messages of training, and of evaluation where the configuration names
        metrics; queries pass.

        timeout: seconds for *one* exchange, of which a round has two or three, and two more at the
        start. Errors: ``one-kind`` and ``one-model`` for messages that differ, ``strategy``,
        ``rounds`` after the last round, and whatever ends a round without a sum.
        """
        given = list(messages)
        kinds = {category(message) for message in given}
        run = strategies.running()
        if not given:
            self._end_unused(run)
            return []
        if not kinds & {TRAIN, EVALUATE}:
            return self._grid.send_and_receive(given, timeout=timeout)
        if len({str(message.metadata.message_type) for message in given}) > 1:
            raise MisuseError("the messages of one call are of different types", rule="one-kind")
        task = kinds.pop()
        self._timeout = self.config.timeout or timeout
        if not (self.config.metrics if task == TRAIN else self._evaluate):
            self._tell_withheld(task)
        try:
            return self._sum(task, given, run)
        except SecAggError:
            if run is not None and self.config.rounds is None:
                self.finish()  # the error leaves Flower's loop, so that no round follows
            raise

    # A round.

    def _sum(self, task: str, given: list[Message], run: strategies.Run | None) -> list[Message]:
        rounds = self._session(task, run)
        if rounds is None:
            return []
        nodes = [int(message.metadata.dst_node_id) for message in given]
        if len(set(nodes)) < len(nodes):
            raise MisuseError("two messages of one call are for the same node", rule="one-kind")
        found = self._using()
        content = given[0].content
        check_names(content)
        setting = self._setting(task, found[-1], content)
        model, settings = self._one_model(task, given, setting)
        for strategy in found:
            self._check(strategy, task, given, setting, rounds)
        last = self._is_last(task, run)
        try:
            return self._round(task, rounds, given, setting, model, settings, last)
        finally:
            if last:
                self._end(rounds)

    def _session(self, task: str, run: strategies.Run | None) -> Rounds | None:
        """The session that this round belongs to; a further run of a strategy has its own."""
        rounds = self._train if task == TRAIN else self._evaluate
        if rounds is None:
            return None
        if rounds not in self._ended:
            self._check_as_many(task, run)
            return rounds
        if run is None or self.config.rounds is not None:
            raise MisuseError(
                "the session is ended: after finish(), and after as many rounds as the "
                f"configuration says ({self.config.rounds}), there is no other",
                rule="rounds",
            )
        fresh = self._rounds(task)
        fresh.reports = rounds.reports
        if task == TRAIN:
            self._train, self._nodes, self._summed = fresh, Nodes(fresh), False
        else:
            self._evaluate, self._others = fresh, Nodes(fresh)
        return fresh

    def _check_as_many(self, task: str, run: strategies.Run | None) -> None:
        stated, begun = self.config.rounds, self._count[task]
        if stated is None or run is None or stated - begun > run.rounds - run.number:
            return
        raise MisuseError(
            f"the strategy was started for {run.rounds} rounds, and the configuration says "
            f"{stated}, of which {begun} are over; SecAggConfig needs no `rounds` under start()",
            rule="rounds",
        )

    def _is_last(self, task: str, run: strategies.Run | None) -> bool:
        if self.config.rounds is not None:
            return self._count[task] + 1 == self.config.rounds
        return run is not None and run.number == run.rounds

    def _round(
        self,
        task: str,
        rounds: Rounds,
        given: list[Message],
        setting: Setting,
        model: bytes,
        settings: bytes,
        last: bool,
    ) -> list[Message]:
        nodes = self._book(rounds)
        nodes.find(self._grid.get_node_ids(), functools.partial(self._greet, task=task))
        sites = nodes.sites
        sampled = {
            sites[int(message.metadata.dst_node_id)]: message
            for message in given
            if int(message.metadata.dst_node_id) in sites
        }
        self._count[task] += 1
        try:
            failures.check_sampled(rounds, len(sampled))
            carrier = self._carrier(rounds, sampled, setting)
            total = rounds.run(model, carrier, settings=settings, last=last)
            found = self._replies(rounds, given, sampled, setting, total)
        except (ThresholdError, PeerError) as error:
            failures.explain(error, rounds, sampled, given_config=bool(self.config.run_config))
            # What is wrong with this program's own files or calls is never passed over.
            if self.config.on_failure != SKIP_ROUND:
                raise
            number = rounds.reports[-1].number
            log.warning("secagg: %s round %d is skipped: %s", task, number, error)
            if last and task == TRAIN and not self._summed:
                raise failures.no_sum() from error
            return [failures.out(message) for message in given]
        self._summed = self._summed or task == TRAIN
        return found

    def _end_unused(self, run: strategies.Run | None) -> None:
        """A strategy that asks for nothing in its last round, of training first: no other call will
        end the session, which may have had rounds before."""
        if run is None or run.number < run.rounds or self.config.rounds is not None:
            return
        for rounds in (self._train, self._evaluate):
            if rounds is not None and rounds not in self._ended:
                self._end(rounds)
                return

    def _end(self, rounds: Rounds) -> None:
        if rounds not in self._ended:
            self._ended.append(rounds)
            rounds.finish(self._carrier(rounds))

    def _book(self, rounds: Rounds) -> Nodes:
        return self._nodes if rounds is self._train or not self._others else self._others

    def _carrier(
        self,
        rounds: Rounds,
        sampled: Mapping[str, Message] | None = None,
        setting: Setting | None = None,
    ) -> Carrier:
        nodes, task = self._book(rounds), rounds.task

        def find() -> None:
            nodes.find(self._grid.get_node_ids(), functools.partial(self._greet, task=task))

        return Carrier(self._grid, nodes, find, rounds, sampled or {}, setting, self._timeout)

    def _replies(
        self,
        rounds: Rounds,
        given: list[Message],
        sampled: Mapping[str, Message],
        setting: Setting,
        total: Aggregate,
    ) -> list[Message]:
        update, metrics = setting.metrics.split(total.sum / total.weight, rounds.plan)
        arrays = None
        if setting.arrays:
            base = arrays_of(strategies.model_in(given[0].content, setting))
            arrays = Layout.of(base).apply(base, update)
        inside = [sampled[name] for name in total.survivors if name in sampled]
        found = replies_of(inside, setting, arrays, metrics, total.weight)
        return found + [failures.out(message) for message in given if message not in inside]

    def _setting(self, task: str, strategy: Strategy, content: RecordDict) -> Setting:
        weight = strategies.key_of(strategy, "weighted_by_key", "num-examples")
        if task == EVALUATE:
            return Setting("", weight, Metrics(self.config.evaluate_metrics))
        name = strategies.key_of(strategy, "arrayrecord_key", "arrays")
        metrics = Metrics(self.config.metrics)
        if weight in metrics.bounds:
            raise MisuseError(f"{weight!r} is the weight, and in the sum anyway", rule="metrics")
        return Setting(name, weight, metrics)

    def _tell_withheld(self, task: str) -> None:
        """Once. In evaluation nobody is even asked, and a strategy has no metrics."""
        if task in self._told_withheld:
            return
        self._told_withheld.add(task)
        what, name = (
            ("training", "metrics") if task == TRAIN else ("evaluation", "evaluate_metrics")
        )
        log.info(
            "secagg: the sites' metrics of %s are withheld; SecAggConfig(%s=...) sums those that "
            "it names",
            what,
            name,
        )

    # Strategies.

    def _using(self) -> list[Strategy]:
        """The strategies at work, the one whose messages these are last; checked by name."""
        found = strategies.calling()
        if self._strategy is not None:
            found = [each for each in found if each is not self._strategy] + [self._strategy]
        if not found:
            raise MisuseError(
                "no flwr.serverapp.strategy.Strategy called this grid, so that nobody knows what "
                "becomes of its replies: give SecAggGrid(..., strategy=...)",
                rule="strategy",
            )
        for strategy in found:
            strategies.check_named(strategy)
        return found

    def _check(
        self,
        strategy: Strategy,
        task: str,
        given: Sequence[Message],
        setting: Setting,
        rounds: Rounds,
    ) -> None:
        if any(known is strategy and done == task for known, done in self._checked):
            return
        if setting.arrays:
            layout = Layout.of(arrays_of(strategies.model_in(given[0].content, setting)))
            setting.metrics.check(rounds.plan, layout)
            setting.metrics.tell_steps(rounds.plan, layout)
        strategies.check_tried(
            strategy,
            given,
            setting,
            max_weight=rounds.plan.max_weight,
            linear=self.config.linear,
        )
        self._checked.append((strategy, task))

    def _one_model(
        self, task: str, given: Sequence[Message], setting: Setting
    ) -> tuple[bytes, bytes]:
        """The bytes that stand for the round's model and for its settings, which have to be the
        same for all sites."""
        if setting.arrays:
            strategies.model_in(given[0].content, setting)

        def said(message: Message) -> tuple[bytes, bytes]:
            kind = str(message.metadata.message_type)
            settings = settings_of(kind, message.content, setting, self.config.run_config)
            return model_of(task, message.content), settings

        known = said(given[0])
        for message in given[1:]:
            if message.content is not given[0].content and said(message) != known:
                raise MisuseError(
                    "the strategy sends different content to different sites; a secure sum is over "
                    "updates of one model",
                    rule="one-model",
                )
        return known

    # Messages.

    def _greet(self, asked: Mapping[int, bytes], task: str) -> dict[int, bytes | None]:
        messages = [
            Message(RecordDict({KEY: pack(data)}), node, task, group_id="secagg/hello")
            for node, data in asked.items()
        ]
        timeout = self.config.timeout or HELLO_SECONDS
        found: dict[int, bytes | None] = {}
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            node = int(reply.metadata.src_node_id)
            # An error is no answer: the node is gone, or could not say who it is this time.
            if node in asked and reply.has_content():
                found[node] = unpack(reply.content)
        return found


def _show_log() -> None:
    """Let the rounds' lines appear where Flower's do, unless the program has its own logging."""
    logger = logging.getLogger("secagg")
    if not logger.hasHandlers():
        for handler in logging.getLogger("flwr").handlers:
            logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


__all__ = ["HELLO_SECONDS", "SecAggGrid"]
