"""Opens what serves people: the directory, budgets, quotes, questions, webhooks."""

from __future__ import annotations
