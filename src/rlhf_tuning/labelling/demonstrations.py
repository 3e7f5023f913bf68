"""Demonstrations by a teacher: every prompt without an answer gets the teacher's. What was answered before a stop is kept.

An answer is left out, and counted, where the teacher gave none, or where its end was cut off and the student would learn to
stop there: one that is longer than what the student learns of an answer is kept, since its end is not learnt anyway. So the
teacher may say a little more than that.
"""

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_tuning import step
from rlhf_tuning.data.importer import read_canonical
from rlhf_tuning.data.output import written_together
from rlhf_tuning.data.rows import Conversation, encode_prompt, encode_text
from rlhf_tuning.distributed import processes
from rlhf_tuning.errors import DataError, ParameterError
from rlhf_tuning.evaluation.judges.asking import Asker, Cap, NoReplyError, Reply, append_record
from rlhf_tuning.evaluation.judges.gemini import GeminiClient
from rlhf_tuning.evaluation.judges.language_model import ChatCompletions
from rlhf_tuning.evaluation.judges.role import TEACHER
from rlhf_tuning.generation.inference import InferenceConfig, read_predictions, write_predictions
from rlhf_tuning.labelling.answers import fault_of
from rlhf_tuning.labelling.teacher import LOCAL, TeacherConfig, check_calls
from rlhf_tuning.limits import highest
from rlhf_tuning.models.architecture import load_config, positions
from rlhf_tuning.models.text_format import TextFormat
from rlhf_tuning.models.tokenizer import load_tokenizer

#: How much more than the student learns of an answer a teacher may say, in its own tokens.
_MORE = 1.25
#: Replies that a file holds at most: where files lie in Cloud Storage, adding a line to one writes all of it anew.
_REPLIES_A_FILE = 100

_REASONS = {
    "empty": "the teacher gave an empty answer",
    "no_text": "the answer holds characters that no dataset may have",
    "cut": "the answer was cut off before its end",
    "refused": "the teacher refused the prompt",
    "unanswered": "the teacher did not answer",
    "capped": "teacher_max_calls was reached",
    "spent": "teacher_max_cost was reached",
}


@dataclass(kw_only=True)
class Labels:
    """What became of the rows.

    Args:
        rows: Demonstrations to learn from.
        eval_rows: Demonstrations to measure on.
        kept: Rows that brought their answer, which was kept.
        labelled: Rows that the teacher answered.
        left_out: Rows that have no answer, by the reason's name.
        refusal: What the server said when it refused.
        cost: What the server's tokens cost; 0 where nobody said what one costs.
        tokens_per_second: How fast a teacher that is loaded here answered; 0 where that is not known.
    """

    rows: int = 0
    eval_rows: int = 0
    kept: int = 0
    labelled: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refusal: str = ""
    cost: float = 0.0
    tokens_per_second: float = 0.0

    def lines(self) -> list[str]:
        """Say it to a person."""
        said = [f"{self.labelled:,} rows have the teacher's answer, {self.kept:,} the answer that they brought"]
        said += [
            f"{count:,} rows are left out: {_REASONS[reason]}{f' ({self.refusal})' if reason == 'refused' else ''}"
            for reason, count in sorted(self.left_out.items())
        ]
        return said + ([f"The teacher's server cost {self.cost:,.2f}"] if self.cost else [])


def label_demonstrations(
    config: TeacherConfig,
    *,
    rows_path: str,
    eval_rows_path: str,
    demonstrations_path: str,
    eval_demonstrations_path: str,
    labels_path: str,
    work_dir: str,
) -> Labels:
    """Let the teacher answer, and write demonstrations.

    Args:
        config: The teacher, and how to ask it.
        rows_path: Canonical demonstrations, of which some have an empty answer.
        eval_rows_path: Likewise those to measure on.
        demonstrations_path: Where to write the demonstrations to learn from.
        eval_demonstrations_path: Where to write those to measure on.
        labels_path: Where to write both as a dataset that a run reads, one row a line.
        work_dir: Folder that keeps what the teacher said until all is written.

    Raises:
        UserError: If the teacher cannot be used as it is set, or may not be asked so often.
        DataError: If no answers are left on one of both sides.
        RunError: If the teacher's server is down.
    """
    sides = [list(read_canonical(path)) for path in (rows_path, eval_rows_path)]
    asked: dict[bytes, Conversation] = {}
    # First those to measure on, which are few: without them nothing could be learnt, where a limit is reached.
    for row in (row for side in reversed(sides) for row in side):
        if _is_asked(config, row):
            asked.setdefault(encode_prompt(row["prompt"]), row["prompt"])
    labels = Labels()
    replies: dict[bytes, Reply | str] = {}
    if asked:
        said = (
            _by_model(config, list(asked.values()), work_dir, labels)
            if config.teacher == LOCAL
            else _by_server(config, list(asked.values()), Path(work_dir), labels)
        )
        replies = dict(zip(asked, said, strict=True))
    text_format = TextFormat(
        load_tokenizer(config.large_model_reference),
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=config.target_sequence_length,
    )
    written = [0, 0]
    with written_together(demonstrations_path, eval_demonstrations_path, labels_path) as (*streams, dataset):
        for side, (rows, stream) in enumerate(zip(sides, streams, strict=True)):
            for row in rows:
                answer = row["answer"]
                if _is_asked(config, row):
                    reply = replies[encode_prompt(row["prompt"])]
                    reason = reply if isinstance(reply, str) else _fault(reply, text_format)
                    if reason or isinstance(reply, str):
                        labels.left_out[reason] += 1
                        continue
                    answer = reply.text
                    labels.labelled += 1
                else:
                    labels.kept += 1
                prompt, text = encode_prompt(row["prompt"]), encode_text(answer)
                stream.write(b'{"prompt": %b, "answer": %b}\n' % (prompt, text))
                said_so = b'{"role": "assistant", "content": %b}' % text
                dataset.write(b'{"prompt": %b, "completion": [%b]}\n' % (prompt, said_so))
                written[side] += 1
        labels.rows, labels.eval_rows = written
        if not all(written):
            raise DataError(
                f"No demonstration is left to {'learn from' if not written[0] else 'measure on'}: "
                f"{'; '.join(labels.lines()[1:]) or 'there are none'}."
            )
    return labels


def _is_asked(config: TeacherConfig, row: Mapping[str, Any]) -> bool:
    return not (row["answer"] and config.keep_answers)


def _fault(reply: Reply, text_format: TextFormat) -> str:
    """Return why an answer cannot be learnt, or an empty string."""
    if reason := fault_of(reply.text):
        return reason
    ends = text_format.learnt_ids(reply.text)[-1] == text_format.tokenizer.eos_token_id
    return "cut" if reply.cut and ends else ""


def _by_model(config: TeacherConfig, prompts: Sequence[Conversation], work_dir: str, labels: Labels) -> list[Reply]:
    """Return the answers of a teacher that is loaded here, sampled as in bulk inference, which keeps what it has."""
    wanted = math.ceil(_MORE * config.target_sequence_length)
    most = min(wanted, highest("target_sequence_length"))
    if room := positions(load_config(config.teacher_model_reference)):
        most = min(most, max(room - config.prompt_sequence_length - 1, config.target_sequence_length))
    inference = InferenceConfig(
        large_model_reference=config.teacher_model_reference,
        prompt_sequence_length=config.prompt_sequence_length,
        target_sequence_length=most,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        dtype=config.dtype,
        inference_engine=config.inference_engine,
    )
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "prompts", Path(scratch) / "answers"
        asked.write_bytes(b"".join(b'{"prompt": %b}\n' % encode_prompt(prompt) for prompt in prompts))
        written = processes.run(
            write_predictions,
            inference,
            trains=False,
            prompts_path=str(asked),
            predictions_path=str(answered),
            label="answers of the teacher",
            work_dir=work_dir,
        )
        labels.tokens_per_second = written["tokens_per_second"]
        return [Reply(row["prediction"], cut=not row["ended"]) for row in read_predictions(str(answered))]


def _by_server(
    config: TeacherConfig, prompts: Sequence[Conversation], work_dir: Path, labels: Labels
) -> list[Reply | str]:
    """Return the replies of a teacher behind a server; where there is none, why."""
    client: ChatCompletions | GeminiClient
    if config.teacher == "gemini":
        where = (config.teacher_model_reference, config.teacher_endpoint)
        client = GeminiClient(*where, config.teacher_key_secret, role=TEACHER, temperature=config.temperature)
        source = config.teacher_endpoint or "Google"
    else:
        where = (config.teacher_endpoint, config.teacher_model_reference)
        client = ChatCompletions(*where, config.teacher_key_secret, role=TEACHER, temperature=config.temperature)
        source = client.url
    kept = _KeptReplies(work_dir, [source, config.teacher_model_reference, config.temperature])
    known = {encode_prompt(prompt): reply for prompt in prompts if (reply := kept.get(prompt))}
    missing = [prompt for prompt in prompts if encode_prompt(prompt) not in known]
    check_calls(len(missing), config.teacher_max_calls)
    if len(missing) < len(prompts):
        step.say(
            f"{len(prompts) - len(missing):,} answers of the teacher are there already, from a run that was stopped"
        )
    cap = Cap(config.teacher_max_calls, config.teacher_max_cost, config.teacher_price)
    asker = Asker(TEACHER, source=source, cap=cap, paid=sum(reply.tokens for reply in known.values()))
    progress = step.Progress("answers of the teacher", len(prompts), "answer")
    done = len(prompts) - len(missing)

    def answer(prompt: Conversation) -> Reply | str:
        nonlocal done
        found: Reply | str
        try:
            found = asker.reply(lambda: client.reply(prompt))
            # Some servers leave a model's thoughts in its reply.
            found = found._replace(text=found.text.rpartition("</think>")[2].strip())
            with asker.lock:
                kept.put(prompt, found)
        except NoReplyError as error:
            found = str(error)
        with asker.lock:
            done += 1
            progress.update(done, {"calls": float(asker.calls)})
        return found

    new = iter(asker.each(missing, answer))
    replies = [known.get(encode_prompt(prompt)) or next(new) for prompt in prompts]
    labels.refusal, labels.cost = asker.refusal, asker.cost
    if replies.count("refused") == len(replies):
        raise ParameterError(
            f"The teacher at {source} refuses every prompt: {asker.refusal}. Check teacher_model_reference and "
            "teacher_endpoint."
        )
    return replies


class _KeptReplies:
    """Replies on the disk: JSON lines, by a hash of the prompt, in a folder for each teacher.

    Args:
        folder: Gets that folder.
        identity: Of the teacher: another model, server or temperature answers otherwise.
    """

    def __init__(self, folder: Path, identity: Sequence[object]) -> None:
        self._folder = folder / f"teacher-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
        self._known: dict[str, Reply] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        """Take one line in; one that was cut off when its writer was stopped is left out."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        self._known[record["prompt"]] = Reply(record["text"], cut=record["cut"], tokens=record.get("tokens", 0))

    def get(self, prompt: Conversation) -> Reply | None:
        """Return the reply to a prompt, if there was one."""
        return self._known.get(self._key(prompt))

    def put(self, prompt: Conversation, reply: Reply) -> None:
        """Keep a reply."""
        key = self._key(prompt)
        append_record(
            self._folder / f"{len(self._known) // _REPLIES_A_FILE:06}.jsonl",
            {"prompt": key, "text": reply.text, "cut": reply.cut, "tokens": reply.tokens},
        )
        self._known[key] = reply

    @staticmethod
    def _key(prompt: Conversation) -> str:
        return hashlib.sha256(encode_prompt(prompt)).hexdigest()
