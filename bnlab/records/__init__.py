"""Run directories: the contract between what produces runs and what judges them."""
