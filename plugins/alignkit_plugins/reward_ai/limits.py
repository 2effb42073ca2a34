"""What a judge behind a server may use: a budget for all of a run."""

from alignkit_plugins.reward_ai.answers import Spent
from alignkit_plugins.reward_ai.config import Budget, Prices


class BudgetUsedUp(BaseException):
    """The next request might go beyond the budget. `limit` is the option that says so.

    No Exception: older clients take every Exception in a hook for a lost connection, and try again.
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Purse:
    """Counts what was spent against the budget.

    Tokens and cost are known when the answer is there, so a question is let through only if it fits beside those under
    way, each taken to be as large as the largest so far and its answer as long as it may get (`longest_answer`, in
    tokens); before there is one, as large as its text at four characters per token.
    """

    def __init__(self, budget: Budget, prices: Prices | None, before: Spent, longest_answer: int) -> None:
        self.budget = budget
        self.prices = prices
        self.total = before
        self._under_way = 0
        requests = max(before.requests, 1)
        written = max(-(-before.tokens_out // requests), longest_answer)
        self._largest = Spent(0, -(-before.tokens_in // requests), written)
        self._answered = before.requests

    def cost(self, spent: Spent) -> float:
        """In the currency of the prices; 0 without prices."""
        if self.prices is None:
            return 0.0
        return (spent.tokens_in * self.prices.input + spent.tokens_out * self.prices.output) / 1e6

    def begin(self, text: str) -> bool:
        """Before a question: whether it may be asked now; if not, it may fit once one under way is answered.

        Raises BudgetUsedUp if it does not fit alone.
        """
        try:
            self._check_next(text)
        except BudgetUsedUp:
            if self._under_way:
                return False
            raise
        self._under_way += 1
        return True

    def _check_next(self, text: str) -> None:
        ahead, largest, budget = self._under_way + 1, self._largest, self.budget
        if self._answered < 2:  # nothing, or the probe alone, which is smaller than questions are
            largest = largest._replace(tokens_in=max(largest.tokens_in, len(text) // 4))
        if budget.tokens is not None:
            tokens = self.total.tokens_in + self.total.tokens_out
            self._check("tokens", tokens, ahead * (largest.tokens_in + largest.tokens_out), budget.tokens)
        if budget.cost is not None:
            self._check("cost", self.cost(self.total), ahead * self.cost(largest), budget.cost)

    @staticmethod
    def _check(name: str, spent: float, next: float, limit: float) -> None:
        if spent >= limit or spent + next > limit:
            raise BudgetUsedUp(name)

    def request(self) -> None:
        """Before every HTTP request, repeated ones included. Raises BudgetUsedUp."""
        if self.budget.requests is not None and self.total.requests >= self.budget.requests:
            raise BudgetUsedUp("requests")
        self.total = self.total.plus(Spent(requests=1))

    def end(self, usage: tuple[int, int] | None) -> None:
        """After a question; `usage`: tokens in and out, if it was answered."""
        self._under_way -= 1
        if usage is None:
            return
        self._answered += 1
        used = Spent(0, *usage)
        self.total = self.total.plus(used)
        self._largest = Spent(*(max(a, b) for a, b in zip(self._largest, used, strict=True)))
