"""Evidence: what a circuit's scores are worth, on prompts that played no part in finding it.

`evidence` is the short form: one table of scores beside its controls. `full_evidence` adds faithfulness curves,
completeness, minimality, hypothesis tests, outliers and stability. `token_effects` goes through some prompts token by
token, `budget_curves` sets searches of causal tracing beside each other, and `compare` puts runs side by side.
"""

from subcircuit.evaluation.budgets import BudgetCurves, budget_curves
from subcircuit.evaluation.comparison import Comparison, compare
from subcircuit.evaluation.controls import Evidence, evidence
from subcircuit.evaluation.full import FullEvidence, full_evidence
from subcircuit.evaluation.panel import Panel
from subcircuit.evaluation.setting import Setting
from subcircuit.evaluation.tokens import TokenEffects, token_effects
from subcircuit.scores import Estimate, Scores, judge

__all__ = [
    "BudgetCurves",
    "Comparison",
    "Estimate",
    "Evidence",
    "FullEvidence",
    "Panel",
    "Scores",
    "Setting",
    "TokenEffects",
    "budget_curves",
    "compare",
    "evidence",
    "full_evidence",
    "judge",
    "token_effects",
]
