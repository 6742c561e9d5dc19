"""The other files here are programs of MPI ranks, which the tests start with mpiexec."""

collect_ignore_glob = ["*.py"]
