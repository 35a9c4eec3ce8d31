"""The risk of a GPU, judged over made-up histories whose end is known, beside the rules that people use today."""
