"""The ``defunet`` command line."""
