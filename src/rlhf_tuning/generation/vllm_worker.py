"""Answers the prompts of a file, and writes each answer as soon as it is finished: a program for a Python that has vLLM.

`vllm_engine` starts it in vLLM's environment, where there is nothing of this project, so it imports nothing of it. Its
argument is a file of JSON lines. The first holds the settings of vLLM's engine and of sampling, each other one a prompt: its
row, its tokens, and its seed or null. To its output it writes JSON lines: null once the engine is ready, then the row and
the tokens of each answer. What vLLM itself has to say goes where errors go.
"""

import json
import os
import sys
from itertools import islice

#: Prompts that the engine has at a time, more than it ever answers together.
_WAITING = 2048


def main(path: str) -> None:
    """Answer the prompts of the file."""
    # vLLM logs to the output, and its processes inherit it.
    answers = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115
    os.dup2(2, 1)
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    with open(path, encoding="utf-8") as requests:
        settings = json.loads(requests.readline())
        engine = LLMEngine.from_engine_args(EngineArgs(**settings["engine"]))
        print("null", file=answers, flush=True)
        while True:
            for line in islice(requests, _WAITING - engine.get_num_unfinished_requests()):
                row, tokens, seed = json.loads(line)
                sampling = SamplingParams(**settings["sampling"], seed=seed, output_kind=RequestOutputKind.FINAL_ONLY)
                engine.add_request(str(row), {"prompt_token_ids": tokens}, sampling)
            if not engine.has_unfinished_requests():
                return
            for output in engine.step():
                print(json.dumps([int(output.request_id), list(output.outputs[0].token_ids)]), file=answers)
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
