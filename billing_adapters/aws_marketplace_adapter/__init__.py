"""The AWS Marketplace adapters: hours by BatchMeterUsage (SaaS) or by MeterUsage (in the buyer's account), each once."""

from __future__ import annotations

from billing_adapters.aws_marketplace_adapter.adapter import (
    CAPABILITIES,
    MarketplaceAdapter,
    MarketplaceSettings,
    make,
)
from billing_adapters.aws_marketplace_adapter.adjustments import Adjustment, AdjustmentAdapter, make_adjustments
from billing_adapters.aws_marketplace_adapter.hours import HourTotal, Licence
from billing_adapters.aws_marketplace_adapter.meter_usage import (
    MeteredHour,
    MeterUsageAdapter,
    MeterUsageSettings,
    make_meter_usage,
)
from billing_adapters.aws_marketplace_adapter.register_usage import Running, register_usage

__all__ = [
    "CAPABILITIES",
    "Adjustment",
    "AdjustmentAdapter",
    "HourTotal",
    "Licence",
    "MarketplaceAdapter",
    "MarketplaceSettings",
    "MeterUsageAdapter",
    "MeterUsageSettings",
    "MeteredHour",
    "Running",
    "make",
    "make_adjustments",
    "make_meter_usage",
    "register_usage",
]
