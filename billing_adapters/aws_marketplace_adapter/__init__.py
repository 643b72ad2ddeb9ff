"""The AWS Marketplace adapter: hourly totals by BatchMeterUsage, each hour once, fractions carried."""

from __future__ import annotations

from billing_adapters.aws_marketplace_adapter.adapter import (
    CAPABILITIES,
    MarketplaceAdapter,
    MarketplaceSettings,
    make,
)
from billing_adapters.aws_marketplace_adapter.hours import HourTotal, Licence

__all__ = ["CAPABILITIES", "HourTotal", "Licence", "MarketplaceAdapter", "MarketplaceSettings", "make"]
