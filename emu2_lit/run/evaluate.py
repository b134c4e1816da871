"""`evaluate`: the few-shot scores of a recipe's model, to read, to compare with the paper's, and to submit."""



