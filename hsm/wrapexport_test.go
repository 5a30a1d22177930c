package hsm

// The known answers of wrapping mechanisms.
var (
	AnswerKEK = answerKEK
	AnswerKey = answerKey
	AnswerKW  = answerKW
	AnswerKWP = answerKWP
)
