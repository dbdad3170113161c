"""How one configuration becomes one trained model: processes, Lightning fits and ready tasks."""
