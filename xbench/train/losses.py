"""The loss: InfoNCE over a batch's passages, and the alignment of each question with its passage."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from xbench.errors import UsageError

# Between them a learned temperature stays; CLIP too "prevents scaling the logits by more than 100".
COLDEST, WARMEST = 0.01, 1.0


class InfoNCE(torch.nn.Module):
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) of cosines, with the batch's passages as negatives.

    With s_ij the cosine of question i and passage j over the temperature, of n questions and m >= n passages,
    where passage i answers question i and those from n on are hard negatives of all:

        forth = 1/n sum_i -log( exp(s_ii) / sum_{j < m} exp(s_ij) )
        back  = 1/n sum_i -log( exp(s_ii) / sum_{j < n} exp(s_ji) )
        align = 1/n sum_i (1 - cos(question i, passage i))
        loss  = forth [or, symmetric, (forth + back) / 2] + alignment * align

    `forth` is Eq. 1 of hybrid batch training (arXiv 2408.10536), which prints no temperature. `align` is half the
    alignment of Wang & Isola 2020 (arXiv 2005.10242, its exponent 2): of unit vectors |x - y|^2 = 2 - 2 cos(x, y).
    """

    def __init__(
        self,
        temperature: float = 0.05,
        learn_temperature: bool = False,
        symmetric: bool = False,
        alignment: float = 0.0,
    ) -> None:
        """Say which terms count, and how cold.

        Args:
            temperature: the divisor of the cosines, or where it begins.
            learn_temperature: then `log_scale`, the logarithm of its inverse as in CLIP (Radford et al. 2021, arXiv
                2103.00020), is this module's one parameter; it should see no weight decay.
            symmetric: whether passages look for their questions too.
            alignment: weight of the alignment term.

        Raises:
            UsageError: a temperature that is not above 0, or is to be learned and lies outside COLDEST to WARMEST.
        """
        super().__init__()
        if not temperature > 0 or (learn_temperature and not COLDEST <= temperature <= WARMEST):
            expected = f"from {COLDEST} to {WARMEST}, to be learned" if learn_temperature else "above 0"
            raise UsageError(f"loss: temperature is {temperature}; expected one {expected}")
        self.symmetric, self.alignment = symmetric, alignment
        self._temperature = temperature
        self.log_scale = torch.nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None

    @property
    def temperature(self) -> float:
        """As it is now."""
        if self.log_scale is None:
            return self._temperature
        return min(max(math.exp(-self.log_scale.item()), COLDEST), WARMEST)  # the last step may have gone beyond

    def forward(
        self,
        queries: Tensor,
        passages: Tensor,
        rows: slice = slice(None),
    ) -> Tensor:
        """The loss of a batch, or one process's part of it: the parts of disjoint `rows` add up to the whole.

        Computes in float32 at least, under autocast too.

        Args:
            queries: float (n, d), of the whole batch, of any length.
            passages: float (m, d), m >= n: row i answers row i of `queries`.
            rows: the questions, and passages, whose terms are summed.

        Returns:
            A scalar, with the graph for gradients.
        """
        n = len(queries)
        with torch.autocast(queries.device.type, enabled=False):
            queries, passages = (torch.nn.functional.normalize(wide(each)) for each in (queries, passages))
            answers = passages[:n]
            own = torch.arange(n, device=queries.device)[rows]
            scale = self._scale()
            total = _entropy(queries[rows] @ passages.T * scale, own)
            if self.symmetric:
                total = (total + _entropy(answers[rows] @ queries.T * scale, own)) / 2
            if self.alignment:
                total = total + self.alignment * (1 - (queries[rows] * answers[rows]).sum(dim=1)).sum()
            return total / n

    def _scale(self) -> Tensor | float:
        if self.log_scale is None:
            return 1 / self._temperature
        with torch.no_grad():  # not a clamp in the graph: beyond its bounds that has no gradient to come back by
            self.log_scale.clamp_(-math.log(WARMEST), -math.log(COLDEST))
        return self.log_scale.exp()


def wide(vectors: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of rows of scores whose columns `targets` are right."""
    return cross_entropy(scores, targets, reduction="sum")
