"""The cross entropy of the best possible model: that of the true probabilities on the labels that were drawn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Bayes:
    """Sums over rows, so that they can be added up while rows are written.

    Attributes:
        entropy: expected cross entropy of the true probabilities, summed; what `loss` is on average over labels.
    """

    rows: int = 0
    positives: int = 0
    loss: float = 0.0
    entropy: float = 0.0

    def add(self, labels: NDArray[np.int8], probabilities: NDArray[np.float64]) -> None:
        """Adds rows: labels [n] of 0 and 1, their true probabilities [n]."""
        log_p, log_q = np.log(probabilities), np.log1p(-probabilities)
        self.rows += len(labels)
        self.positives += int(labels.sum())
        self.loss -= float(np.where(labels == 1, log_p, log_q).sum())
        self.entropy -= float((probabilities * log_p + (1 - probabilities) * log_q).sum())

    def to_json(self) -> dict[str, float]:
        """logloss and NE of the true probabilities on the drawn labels; logloss as it is expected.

        NE is the logloss over that of always predicting the rows' label rate, as in smt.training.metrics.

        Raises:
            ValueError: labels of one class only.
        """
        if self.positives in (0, self.rows):
            raise ValueError(f"found {self.positives} positive labels of {self.rows}; expected both, in more rows")
        rate = self.positives / self.rows
        base = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return {
            "rows": self.rows,
            "positives": self.positives,
            "logloss": self.loss / self.rows,
            "expected_logloss": self.entropy / self.rows,
            "ne": float(self.loss / self.rows / base),
        }
