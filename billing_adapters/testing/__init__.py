"""What third parties need to test against delivery: the contract of adapters, and faithful fakes of providers."""
