"""Is everything that the package promises there, and does it come without being imported before?"""

import subprocess
import sys

import hpo


def test_every_promised_name_is_there():
    assert sorted(hpo.__all__) == sorted(hpo._HOMES) == dir(hpo)
    for name in hpo.__all__:
        assert getattr(hpo, name).__name__ == name


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("torch", "optuna", "sqlalchemy", "lightning", "mlflow", "scipy", "sklearn")
    asked = f"import sys, hpo; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "[]\n"
