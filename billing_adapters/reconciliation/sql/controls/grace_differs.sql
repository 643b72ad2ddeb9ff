-- control: GRACE_DIFFERS
-- version: 1
-- point: P5
-- compares: how late a plan still takes usage (late_usage_days) with how late the provider takes it that bills for its tenants
-- catches: two settings that differ and mean under-billing for ever: we take usage that the provider refuses
-- class: INFO
-- owner: FIN
-- money: none
-- act: set late_usage_days of the plan to what the provider takes, or deliver usage sooner
-- cadence: weekly
-- needs: accept_window
-- needs: subscription_term
-- needs: plan_term
SELECT
    term.tenant_id,
    accepts.adapter,
    'provider_is_stricter' AS reason,
    term.plan || '/' || term.plan_version AS subject,
    'plan ' || term.plan || ' version ' || term.plan_version || ' takes usage '
        || coalesce('for ' || plan.late_usage_days || ' days', 'however late it is') || '; ' || accepts.adapter || ' takes it for '
        || accepts.oldest_s || ' seconds' AS detail
FROM subscription_term AS term
JOIN plan_term AS plan USING (plan, plan_version)
JOIN accept_window AS accepts USING (tenant_id)
WHERE term.starts_at < $end_instant
    AND coalesce(term.ends_at, $end_instant) > $start_instant
    AND (plan.late_usage_days IS NULL OR plan.late_usage_days * 86400 > accepts.oldest_s)
GROUP BY ALL
ORDER BY ALL
