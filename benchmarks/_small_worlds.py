"""Models trained from scratch for the benchmark of distillation: a text of sure and unsure tokens, sums modulo p."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from subcircuit.ground_truth.tiny import word_tokenizer
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import SPLITS, Pairs, Split

Sampler = Callable[[int, torch.Generator], Tensor]  # how many, by which draws -> texts as token ids


def llama(vocab: int, *, width: int, neurons: int, seed: int) -> LlamaForCausalLM:
    """Two layers of four heads, which no token ends."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=neurons,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def fit(model: LlamaForCausalLM, loss: Callable[[int], Tensor], steps: int, lr: float, decay: float) -> None:
    """AdamW with a short warm-up and a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()


class Chain:
    """A text in which the last token and the class of the one before decide: 60% of contexts are nearly certain."""

    vocab, classes = 64, 4

    def __init__(self, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        contexts = self.vocab * self.classes
        weights = torch.rand(contexts, self.vocab, generator=draws).log().neg()  # Dirichlet(1), before its sum
        order = torch.rand(contexts, self.vocab, generator=draws).argsort(1)
        table = torch.zeros(contexts, self.vocab).scatter(1, order[:, :8], weights[:, :8])
        sure = torch.rand(contexts, generator=draws) < 0.6
        table[sure] = table[sure].scatter(1, order[sure, :1], 200.0)
        self.table = table / table.sum(1, keepdim=True)

    def __call__(self, count: int, draws: torch.Generator, length: int = 32) -> Tensor:
        text = torch.randint(self.vocab, (count, length), generator=draws)
        for place in range(2, length):
            context = text[:, place - 1] * self.classes + text[:, place - 2] % self.classes
            text[:, place] = torch.multinomial(self.table[context], 1, generator=draws)[:, 0]
        return text

    def teacher(self, steps: int) -> LlamaForCausalLM:
        model, draws = llama(self.vocab, width=64, neurons=192, seed=0), torch.Generator().manual_seed(1)

        def loss(step: int) -> Tensor:
            text = self(48, draws)
            found: Tensor = model(text, labels=text).loss
            return found

        fit(model, loss, steps, lr=4e-3, decay=0.01)
        return model


class Sums:
    """`a b =` and the sum modulo p; a fifth of all pairs is kept from training."""

    def __init__(self, p: int = 59) -> None:
        self.p = p
        pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
        self.prompts = torch.cat([pairs, torch.full((len(pairs), 1), p)], 1)
        self.answers = pairs.sum(1) % p
        self.held = len(pairs) // 5

    def model(self, steps: int, seed: int = 0) -> LlamaForCausalLM:
        model, draws = llama(self.p + 1, width=128, neurons=512, seed=seed), torch.Generator().manual_seed(1)

        def loss(step: int) -> Tensor:
            rows = torch.randint(self.held, len(self.prompts), (512,), generator=draws)
            logits = model(self.prompts[rows], logits_to_keep=1).logits[:, -1]
            return torch.nn.functional.cross_entropy(logits, self.answers[rows])

        fit(model, loss, steps, lr=2e-3, decay=1.0)
        return model

    @torch.no_grad()
    def accuracy(self, model: LlamaForCausalLM) -> float:
        """On the pairs that were kept from training."""
        logits = model.eval()(self.prompts[: self.held], logits_to_keep=1).logits[:, -1]
        return float((logits[:, : self.p].argmax(-1) == self.answers[: self.held]).float().mean())


class PromptTask:
    """Prompts of one length by a sampler; right is the model's own top token, wrong what it says to another prompt."""

    name = "prompts"

    def __init__(self, subject: Subject, sampler: Sampler) -> None:
        self.subject, self.sampler = subject, sampler

    def pairs(self, tokenizer: PreTrainedTokenizerBase, n: int, *, seed: int = 0, split: Split = "train") -> Pairs:
        draws = torch.Generator().manual_seed(10 * seed + SPLITS.index(split))
        clean, corrupt = (_prompts(self.sampler(n, draws)) for _ in range(2))
        with torch.no_grad():
            right = self.subject.logits(clean).argmax(-1, keepdim=True)
            wrong = self.subject.logits(corrupt).scatter(1, right, -torch.inf).argmax(-1, keepdim=True)
        return Pairs(clean, corrupt, right, wrong)


def named(model: LlamaForCausalLM, vocab: int, name: str) -> Subject:
    return Subject(model, word_tokenizer([f"t{token}" for token in range(vocab)]), name=name)


def _prompts(ids: Tensor) -> Prompts:
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((len(ids),), ids.shape[1] - 1))
