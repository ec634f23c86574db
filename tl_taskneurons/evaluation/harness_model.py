"""A TransformerLens model as a model of EleutherAI's evaluation harness. Needs ``lm_eval``."""

import warnings
from collections import defaultdict
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from tl_taskneurons.models.forward import answer_logits, frozen
from tl_taskneurons.models.generation import eos_ids, generate
from tl_taskneurons.models.inputs import CutInputWarning
from tl_taskneurons.models.protocol import LanguageModel
from tl_taskneurons.models.view import view
from tl_taskneurons.runtime.errors import InputError
from tl_taskneurons.tasks.batches import Batch, in_memory, make_batches, token_budget_for
from tl_taskneurons.tasks.prompts import Item
from tl_taskneurons.tasks.tokens import token_ids

# Of models that don't say how much they can read.
_N_CTX = 2048


class HarnessModel(TemplateLM):
    """Answers the harness's requests with this library's forward passes and generation.

    So interventions and deltas act as they do everywhere, in both model classes.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        bos: put the tokenizer's BOS first, as TransformerLens does.
        token_budget: the most tokens in a batch, padding included; by default what suits the
            device.
    """

    def __init__(
        self, model: LanguageModel, *, bos: bool = True, token_budget: int | None = None
    ) -> None:
        super().__init__()
        self._view = view(model)
        self.tokenizer = model.tokenizer
        if self.tokenizer is None:
            raise InputError("The model has no tokenizer; load it with one or set model.tokenizer.")
        self._bos = self.tokenizer.bos_token if bos else None
        self._budget = token_budget_for(self._view.device, token_budget)
        self._told: set[tuple[int, int]] = set()
        self._ends = eos_ids(model) | {self.eot_token_id}

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        eos = self.tokenizer.eos_token_id
        return self.tokenizer.bos_token_id if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """The longest input in tokens."""
        return self._view.n_ctx or _N_CTX

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own cache of requests."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokenise a text, with the BOS in front unless it stands there already or isn't wanted."""
        ids = list(token_ids(self.tokenizer, string))
        if add_special_tokens is False or not self._bos or string.startswith(self._bos):
            return ids
        return [self.tokenizer.bos_token_id, *ids]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation by the tokenizer's template."""
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability in nats, and whether greedy gives it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[Any, list[int], list[int]]],
        **_: Any,
    ) -> list[tuple[float, bool]]:
        results = [(0.0, True)] * len(requests)
        items, places, n_cut = [], [], 0
        for i, (_, context, continuation) in enumerate(requests):
            if not continuation:
                continue
            room = self.max_length - len(continuation)
            if room < 1:
                raise InputError(
                    f"A continuation of {len(continuation)} tokens leaves no room in the context "
                    f"of {self.max_length} of {self._view.name}; leave this task out."
                )
            # As the harness does, the beginning of a context that is too long is cut off.
            n_cut += len(context) > room
            items.append(Item(i, tuple(context[-room:]), tuple(continuation), ()))
            places.append(i)

        self._tell_cut(n_cut, len(items))

        def score(batch: Batch) -> None:
            log_probs = answer_logits(self._view, batch.to(self._view.device)).float()
            log_probs = log_probs.log_softmax(-1)
            targets = batch.tokens[batch.answer_mask].to(log_probs.device)
            chosen = log_probs.gather(1, targets[:, None])[:, 0]
            greedy = log_probs.argmax(-1) == targets
            counts = batch.answer_mask.sum(1).tolist()
            sums = torch.stack([values.sum() for values in chosen.split(counts)]).tolist()
            alike = torch.stack([same.all() for same in greedy.split(counts)]).tolist()
            for row, i in enumerate(batch.index):
                results[places[i]] = (sums[row], alike[row])

        with frozen(self._view.model), torch.no_grad():
            in_memory(make_batches(items, token_budget=self._budget), score)
        for request, found in zip(requests, results, strict=True):
            if request[0] is not None:
                self.cache_hook.add_partial("loglikelihood", request[0], found)
        return results

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = True,  # noqa: ARG002 (the harness's)
    ) -> list[float]:
        """Return each text's log-probability in nats; long ones are read in windows."""
        windows, owners = [], []
        for i, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for pair in utils.get_rolling_token_windows(
                tokens, self.prefix_token_id, self.max_length - 1, 1
            ):
                windows.append((None, *utils.make_disjoint_window(pair)))
                owners.append(i)
        totals = [0.0] * len(requests)
        for i, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += value
        for request, value in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return totals

    def generate_until(
        self,
        requests: list[Instance],
        disable_tqdm: bool = True,  # noqa: ARG002 (the harness's)
    ) -> list[str]:
        """Continue each context greedily up to one of its stops.

        Raises:
            ValueError: where sampling is asked for.
        """
        answers = [""] * len(requests)
        alike: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            arguments: Any = request.args
            alike[self._stops(arguments[1])].append(i)
        for (until, most), rows in alike.items():
            # Half of the context at most is generated, so that there is something to read.
            most = min(most, self.max_length // 2)
            room = self.max_length - most
            texts = [self.tok_encode(requests[i].args[0]) or [self.prefix_token_id] for i in rows]
            self._tell_cut(sum(len(ids) > room for ids in texts), len(texts))
            prompts = [ids[-room:] for ids in texts]

            def closes(ids: Any, until: tuple[str, ...] = until) -> bool:
                return ids[-1] in self._ends or any(
                    stop and stop in self._text(ids) for stop in until
                )

            with frozen(self._view.model):
                found = generate(
                    self._view, prompts, closes=closes, max_new_tokens=most,
                    token_budget=2 * self._budget,
                )  # fmt: skip
            for i, ids in zip(rows, found, strict=True):
                answers[i] = _before(self._text(ids), until)
                self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return answers

    def _tell_cut(self, n_cut: int, n_all: int) -> None:
        """Warn of contexts that were cut, once: every condition asks the same."""
        if n_cut and (n_cut, n_all) not in self._told:
            self._told.add((n_cut, n_all))
            warnings.warn(
                f"Of {n_all} requests, {n_cut} lost the beginnings of their contexts, since "
                f"{self._view.name} reads {self.max_length} tokens, the answer included. Use fewer "
                "demonstrations (num_fewshot), or take a model of longer context.",
                CutInputWarning,
                stacklevel=3,
            )

    def _text(self, ids: Any) -> str:
        kept = [token for token in ids if token not in self._ends]
        return self.tokenizer.decode(kept, skip_special_tokens=True)

    @staticmethod
    def _stops(options: dict[str, Any]) -> tuple[tuple[str, ...], int]:
        """What ends an answer, and the most tokens of one."""
        if options.get("do_sample") and float(options.get("temperature", 1.0)) > 0:
            raise InputError(
                f"A task asks for sampling ({options}); this library generates greedily. Leave the "
                "task out, or give it do_sample: false."
            )
        until = options.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        return stops, int(options.get("max_gen_toks", 256))


def _before(text: str, until: tuple[str, ...]) -> str:
    for stop in filter(None, until):
        text = text.partition(stop)[0]
    return text
