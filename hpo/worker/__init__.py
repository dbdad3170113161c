"""A worker on any machine: it pulls trials from a service, trains them as `hpo tune` does, and tells how they went."""
