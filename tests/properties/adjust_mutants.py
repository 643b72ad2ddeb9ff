"""The rules around the prices, broken on purpose: (package, file, find, replace) by name. Run by test_mutants."""

from __future__ import annotations

ADJUST_MUTANTS = {
    "percent discounts lower negative lines": (
        "rating",
        "adjust_percent",
        "WHERE net.exact_amount > 0",
        "WHERE net.exact_amount <> 0",
    ),
    "percent discounts of one line add instead of multiplying": (
        "rating",
        "adjust_percent",
        "JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)",
    ),
    "a discount ignores what it is limited to": (
        "rating",
        "adjust_percent",
        " AND adjust_scope.price_id = charge.price_id",
        "",
    ),
    "a fixed discount is shared out over the gross": (
        "rating",
        "adjust_fixed_base",
        "JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)",
    ),
    "a fixed discount also goes over negative lines": (
        "rating",
        "adjust_fixed_base",
        "HAVING sum(charge.exact_amount) > 0",
        "HAVING sum(charge.exact_amount) <> 0",
    ),
    "a commitment holds on the gross": (
        "rating",
        "commitment_net",
        "JOIN charge USING (span_id)",
        "JOIN (SELECT * FROM charge WHERE part NOT LIKE 'discount:%') AS charge USING (span_id)",
    ),
    "every line has the commitment for itself": (
        "rating",
        "adjust_excess",
        "PARTITION BY pot_id ORDER BY place, position, group_key ROWS UNBOUNDED PRECEDING",
        "PARTITION BY pot_id, price_id, group_key ROWS UNBOUNDED PRECEDING",
    ),
    "the last line is dearer first": (
        "rating",
        "adjust_excess",
        "ORDER BY place, position, group_key ROWS",
        "ORDER BY place, position DESC, group_key DESC ROWS",
    ),
    "a negative line makes nothing cheaper again": (
        "rating",
        "adjust_excess",
        "WHERE excess_amount <> 0",
        "WHERE excess_amount > 0",
    ),
    "the maximum of all prices is that of each": (
        "rating",
        "adjust_maximum",
        "sum(amount) OVER (PARTITION BY span_id)",
        "amount",
    ),
    "ratios lose the rest of an amount": (
        "rating",
        "adjust_ratio_size",
        "((size - floor(size))::DECIMAL(21, 21) * ratio::DECIMAL(10, 6))::DECIMAL(38, 21)",
        "0::DECIMAL(38, 21)",
    ),
    "a minimum is measured on the exact amounts": (
        "rating",
        "true_up",
        "sum(worth_line.amount) AS amount",
        "sum(worth_line.exact_amount) AS amount",
    ),
    "a minimum covers every line": ("rating", "true_up", " AND adjust_scope.price_id = worth_line.price_id", ""),
    "a minimum met gives money back": ("rating", "true_up", "AND owed > 0", "AND owed <> 0"),
    "a true-up is due before the period is over": (
        "rating",
        "true_up",
        "AND billing_span.period_end <= $as_of",
        "AND $as_of IS NOT NULL",
    ),
    "a trial and units are charged at the whole amount": (
        "rating",
        "charge_flat_part",
        "    flat_part.exact_amount\n",
        "    flat_part.amount\n",
    ),
    "what has parts is charged as a whole too": (
        "rating",
        "charge_flat",
        "ANTI JOIN flat_part ON flat_part.span_id = billing_span.span_id",
        "ANTI JOIN flat_part ON flat_part.span_id <> billing_span.span_id",
    ),
    "a line of parts shows the first number of units": (
        "rating",
        "worth_line",
        "arg_max(charge.quantity, charge.tier)",
        "arg_min(charge.quantity, charge.tier)",
    ),
}
