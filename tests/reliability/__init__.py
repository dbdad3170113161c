"""Does the history keep its promises when everything around it fails? `make reliability`; a short form in the tests."""
