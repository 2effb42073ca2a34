"""The advantage estimator of OPO (Hao et al. 2025) for alignkit."""
