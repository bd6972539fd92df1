"""When a generator pays: student budgets of both arms, their difference at equal cost, and the answer in words."""
