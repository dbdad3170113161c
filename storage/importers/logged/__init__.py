"""How runs that people's own code has logged are read: from MLflow, and from Lightning's folders."""
