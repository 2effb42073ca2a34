"""The step `data`: reads or makes records, checks them, splits them, writes one file per part."""
