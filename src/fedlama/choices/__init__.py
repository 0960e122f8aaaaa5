"""What a federation chooses from: strategies, solvers, codecs and more; never knows an engine, a file or a socket."""
