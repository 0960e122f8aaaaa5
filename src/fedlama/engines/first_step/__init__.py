"""At a run's first step, one client's step is compared with plain PyTorch: nothing else notices a step that is wrong.

====================  ==============================================================================================
module                question
====================  ==============================================================================================
``batches``           how can a batch be looked at before its turn, if it is given out once?
``plain``             what does a client's step give, if the user's own model is called plainly?
``hidden_state``      does the model, the loss or the solver remember something that clients would share?
``comparison``        does a trainer take the same step, up to what rounding explains?
====================  ==============================================================================================

Everything here works on copies. It changes no model, no statistics and no random number of the run.
"""
