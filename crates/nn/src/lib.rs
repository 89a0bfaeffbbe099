//! Transformers as an operator graph, a planner, and executors in the clear and under CKKS.
