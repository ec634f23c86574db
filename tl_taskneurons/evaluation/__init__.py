"""How well a model does its tasks, as it is and with neurons silenced, as tables with intervals."""
