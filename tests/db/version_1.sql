PRAGMA application_id = 1718381924;
BEGIN TRANSACTION;
CREATE TABLE agents (
	run_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	attributes TEXT NOT NULL, 
	kinds TEXT NOT NULL, 
	software TEXT NOT NULL, 
	is_present INTEGER NOT NULL, 
	joined_at FLOAT NOT NULL, 
	left_at FLOAT, 
	seen_at FLOAT NOT NULL, 
	UNIQUE (run_id, agent_id), 
	CHECK (is_present IN (0, 1)), 
	CHECK (is_present = (left_at IS NULL)), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "agents" VALUES('run-1','a','site a','{"beds":3}','["train"]','fl_main',1,101.0,NULL,101.0);
INSERT INTO "agents" VALUES('run-1','b','site b','{"beds":3}','["train"]','fl_main',1,101.0,NULL,101.0);
INSERT INTO "agents" VALUES('run-1','c','site c','{"beds":3}','["train"]','fl_main',1,101.0,NULL,101.0);
CREATE TABLE events (
	event_id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	record TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	facts TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	PRIMARY KEY (event_id), 
	UNIQUE (run_id, seq), 
	CHECK (seq >= 1)
);
INSERT INTO "events" VALUES(1,'',1,90.0,'event','','{"actor":"","agent_id":null,"details":{"by":"0.1.0","created_at":"90.0","digest_algorithm":"sha256","made_by":"fl_main 0.1.0","migrations":["first schema"],"schema_version":"1"},"kind":"database_created","round_id":null}','4cdc8b9ccd9f45b1195f345856dd56d53021b13c669592cc202d9fd1bbf77237');
INSERT INTO "events" VALUES(2,'run-1',1,100.0,'run','run-1','{"best_model_id":null,"best_round":0,"best_value":null,"failed_rounds":0,"kind":null,"model_id":null,"name":"hearts","phase":"waiting","reason":"","round_id":0,"rounds_done":0,"run_id":"run-1","run_time_s":0.0,"settings":"sha256:3ec84e3b60a833200ffbeec2c7ba6a952a21185a7c701316af1858f4007d1377","settings_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","state_ids":{},"statistics_id":null,"status":"running"}','fb936453a92fbc3cb226df22d116dba66fd0d3cbda507196d9957cac13c0d04e');
INSERT INTO "events" VALUES(3,'run-1',2,100.0,'event','','{"actor":"ann","agent_id":null,"details":{},"kind":"run_created","round_id":null}','8a81156760ed6e969cd687f912624fe241b7da3d2c0a4ae35fa4c2d572f95a68');
INSERT INTO "events" VALUES(4,'run-1',3,101.0,'agent','a','{"agent_id":"a","attributes":{"beds":3},"is_present":true,"kinds":["train"],"name":"site a","run_id":"run-1","software":"fl_main"}','db053da0ab85054fe3a3562ea7378ddd3026b2a37cf6e85c83c984bb34bac3ab');
INSERT INTO "events" VALUES(5,'run-1',4,101.0,'agent','b','{"agent_id":"b","attributes":{"beds":3},"is_present":true,"kinds":["train"],"name":"site b","run_id":"run-1","software":"fl_main"}','361e09c0db89be4b1ca2790a8a5bffeff7b7e44f183008e49a8bdf1525b53866');
INSERT INTO "events" VALUES(6,'run-1',5,101.0,'agent','c','{"agent_id":"c","attributes":{"beds":3},"is_present":true,"kinds":["train"],"name":"site c","run_id":"run-1","software":"fl_main"}','1d791bdc3027ec7459e9014f38aa804fb5dd9515d3231532adb24618bf14403e');
INSERT INTO "events" VALUES(7,'run-1',6,102.0,'model','initial','{"agent_id":null,"channel":"weights","digest":"sha256:70ee5ff931d21907a66e2c9b5b8950c7bf7761f44993c2810e6c7bac34e8fb25","form":"full","is_stored":true,"kind":"initial","layout_digest":"sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45","model_id":"initial","not_stored_reason":"","parents":[],"round_id":0,"run_id":"run-1","size":60}','2ea782c70b48a0675b5903502c65ad34632d6b3d93b3f6b00c0f67b9148b1fc3');
INSERT INTO "events" VALUES(8,'run-1',7,102.0,'round','0','{"base_model_id":null,"ended_s":null,"model_id":"initial","reason":"","round_id":0,"run_id":"run-1","started_s":0.0,"status":"done"}','470405841b2d5278c8774cae7d007e4fd19ac455e9a47702eb0dd1a1b9106fcd');
INSERT INTO "events" VALUES(9,'run-1',8,102.0,'run','run-1','{"best_model_id":null,"best_round":0,"best_value":null,"failed_rounds":0,"kind":null,"model_id":"initial","name":"hearts","phase":"waiting","reason":"","round_id":0,"rounds_done":0,"run_id":"run-1","run_time_s":0.0,"settings":"sha256:3ec84e3b60a833200ffbeec2c7ba6a952a21185a7c701316af1858f4007d1377","settings_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","state_ids":{},"statistics_id":null,"status":"running"}','8826b3e486d9435c9df88036d7ff151f30ea14674fd47fd27a5cfe16f7a02bb5');
INSERT INTO "events" VALUES(10,'run-1',9,110.0,'round','1','{"base_model_id":"initial","ended_s":null,"model_id":null,"reason":"","round_id":1,"run_id":"run-1","started_s":1.0,"status":"open"}','f27e25c6f183494bed370484170146e96ef2c795f46ad6ad07fb9787a201f4ad');
INSERT INTO "events" VALUES(11,'run-1',10,110.0,'step','[1,"train",0]','{"attempt":0,"deadline_s":60.0,"eligible":["a","b","c"],"ended_s":null,"extended":false,"frozen":[],"invited":["a","b","c"],"kind":"train","quorum_s":null,"reason":"","round_id":1,"rule":"all","run_id":"run-1","started_s":1.0,"status":"open"}','62f5de5ada29defde0d01e888bcd4af3798c5cac44c3e4955cd60b818b9edb5c');
INSERT INTO "events" VALUES(12,'run-1',11,110.0,'task','t1a','{"agent_id":"a","assigned_s":1.0,"kind":"train","model_id":"initial","model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"open","task_id":"t1a","version":0}','0a7e51bf49832cc85102215a4c96097066e22f863523dbd9e9783376b1a5b0d6');
INSERT INTO "events" VALUES(13,'run-1',12,110.0,'task','t1b','{"agent_id":"b","assigned_s":1.0,"kind":"train","model_id":"initial","model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"open","task_id":"t1b","version":0}','d8f98128aff15a97eb96721f77bab64903eae1f3f726bc0be1856289c5d0c53f');
INSERT INTO "events" VALUES(14,'run-1',13,110.0,'task','t1c','{"agent_id":"c","assigned_s":1.0,"kind":"train","model_id":"initial","model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"open","task_id":"t1c","version":0}','919a9af289568446bbf4c736ba6cbd5f8aa2e41acecc734a4daa46a19fb0b6fb');
INSERT INTO "events" VALUES(15,'run-1',14,110.0,'run','run-1','{"best_model_id":null,"best_round":0,"best_value":null,"failed_rounds":0,"kind":"train","model_id":"initial","name":"hearts","phase":"collecting","reason":"","round_id":1,"rounds_done":0,"run_id":"run-1","run_time_s":0.0,"settings":"sha256:3ec84e3b60a833200ffbeec2c7ba6a952a21185a7c701316af1858f4007d1377","settings_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","state_ids":{},"statistics_id":null,"status":"running"}','b2637e9421acca74a5b057492ec86d2561f6e1eea13a57583d431d02ef4478de');
INSERT INTO "events" VALUES(16,'run-1',15,111.0,'model','m1a','{"agent_id":"a","channel":"weights","digest":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc","form":"full","is_stored":true,"kind":"local","layout_digest":"sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45","model_id":"m1a","not_stored_reason":"","parents":[],"round_id":1,"run_id":"run-1","size":60}','a96255fc494ba684508154bd54218ad12b8d138f80913db1dd4ed444feea941d');
INSERT INTO "events" VALUES(17,'run-1',16,111.0,'update','["t1a","a",{"weights":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc"}]','{"agent_id":"a","counted_in":null,"digests":{"weights":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc"},"kind":"train","metrics":{"loss":0.25},"model_id":"m1a","num_examples":10,"num_steps":null,"reason":"","round_id":1,"run_id":"run-1","seconds":0.0,"share":null,"size":60,"staleness":null,"task_id":"t1a","verdict":"accepted","version":0}','1f10532638219880d0e2792d448e9bb6134271d29f50967d85b6a4bce8d65ecc');
INSERT INTO "events" VALUES(18,'run-1',17,111.0,'task','t1a','{"agent_id":"a","assigned_s":1.0,"kind":"train","model_id":null,"model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"answered","task_id":"t1a","version":0}','6f6264d0670167096ee4f267a7200fb0a57962b02859612f7c8cbd22244ac289');
INSERT INTO "events" VALUES(19,'run-1',18,111.0,'metric','[1,"m1a","train","a","loss"]','{"agent_id":"a","agents":1,"model_id":"m1a","name":"loss","num_examples":20,"round_id":1,"run_id":"run-1","source":"train","value":1.0}','fa3aaa80584235c122255b556b86c6435c4dd9f8158ce61f12eb099dd6361773');
INSERT INTO "events" VALUES(20,'run-1',19,111.0,'event','','{"actor":"","agent_id":"a","details":{},"kind":"update_accepted","round_id":1}','1be05d9c31fb5e8ecfdfae6e888cdfb3b11295b31449ccce43cfa95b0587c526');
INSERT INTO "events" VALUES(21,'run-1',20,111.0,'model','m1b','{"agent_id":"b","channel":"weights","digest":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f","form":"full","is_stored":true,"kind":"local","layout_digest":"sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45","model_id":"m1b","not_stored_reason":"","parents":[],"round_id":1,"run_id":"run-1","size":60}','001fe75e8ceced22d05ccfdca9508378b915ba5d5540ea6a7f7bb0bfc808c08a');
INSERT INTO "events" VALUES(22,'run-1',21,111.0,'update','["t1b","b",{"weights":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f"}]','{"agent_id":"b","counted_in":null,"digests":{"weights":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f"},"kind":"train","metrics":{"loss":0.25},"model_id":"m1b","num_examples":10,"num_steps":null,"reason":"","round_id":1,"run_id":"run-1","seconds":0.0,"share":null,"size":60,"staleness":null,"task_id":"t1b","verdict":"accepted","version":0}','07a5a91d53a225bd8a01d345b71f9f9bc3e58af4cb1b0e5b84684e119ff99918');
INSERT INTO "events" VALUES(23,'run-1',22,111.0,'task','t1b','{"agent_id":"b","assigned_s":1.0,"kind":"train","model_id":null,"model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"answered","task_id":"t1b","version":0}','a7f801ed29536e4b381e42ff8df448260985d15c23b5adb8461653a32dfb80e4');
INSERT INTO "events" VALUES(24,'run-1',23,111.0,'metric','[1,"m1b","train","b","loss"]','{"agent_id":"b","agents":1,"model_id":"m1b","name":"loss","num_examples":20,"round_id":1,"run_id":"run-1","source":"train","value":1.5}','67861a5fb08659c655513d8981f719425bb40fe0a8c664f5d87fcdce91d7f4c4');
INSERT INTO "events" VALUES(25,'run-1',24,111.0,'event','','{"actor":"","agent_id":"b","details":{},"kind":"update_accepted","round_id":1}','22a0853164dcc998e49374b7d023c23231e63145ae2948861b122fefd362251a');
INSERT INTO "events" VALUES(26,'run-1',25,115.0,'model','g1','{"agent_id":null,"channel":"weights","digest":"sha256:0dc2f6c9bf22989c9c634102fff3908053fc873e8c033c07d5b220651f677c69","form":"full","is_stored":true,"kind":"global","layout_digest":"sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45","model_id":"g1","not_stored_reason":"","parents":[["m1a",0.5],["m1b",0.5]],"round_id":1,"run_id":"run-1","size":60}','6c4dfb2d33bf5d11b50060405f63c9391ae87c9e38a7d18562390f3f3a687e5f');
INSERT INTO "events" VALUES(27,'run-1',26,115.0,'update','["t1a","a",{"weights":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc"}]','{"agent_id":"a","counted_in":1,"digests":{"weights":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc"},"kind":"train","metrics":{"loss":0.25},"model_id":"m1a","num_examples":10,"num_steps":null,"reason":"","round_id":1,"run_id":"run-1","seconds":0.0,"share":0.5,"size":60,"staleness":0,"task_id":"t1a","verdict":"accepted","version":0}','4f93b4a7fedc83dd24d1d7799cd1bfe17eed5a84a5e8d72060da170a8d4e3091');
INSERT INTO "events" VALUES(28,'run-1',27,115.0,'update','["t1b","b",{"weights":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f"}]','{"agent_id":"b","counted_in":1,"digests":{"weights":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f"},"kind":"train","metrics":{"loss":0.25},"model_id":"m1b","num_examples":10,"num_steps":null,"reason":"","round_id":1,"run_id":"run-1","seconds":0.0,"share":0.5,"size":60,"staleness":0,"task_id":"t1b","verdict":"accepted","version":0}','0f98656f5b7ef477de8825eaba966c8e3aa149e6b42b1e12dfb332560fe2cb37');
INSERT INTO "events" VALUES(29,'run-1',28,115.0,'metric','[1,"g1","train","","loss"]','{"agent_id":"","agents":2,"model_id":"g1","name":"loss","num_examples":20,"round_id":1,"run_id":"run-1","source":"train","value":0.5}','094746e3a188c6d7afd40166d45c229ba4e4aca928a155751e44a6fbc35b6d26');
INSERT INTO "events" VALUES(30,'run-1',29,115.0,'metric','[1,"g1","evaluate","","accuracy"]','{"agent_id":"","agents":2,"model_id":"g1","name":"accuracy","num_examples":20,"round_id":1,"run_id":"run-1","source":"evaluate","value":0.5}','88e809a1daef507195814bfa5ef30b4ff7d68572a0805863a46ec98b148ea35f');
INSERT INTO "events" VALUES(31,'run-1',30,115.0,'tag','final','{"model_id":"g1","run_id":"run-1","tag":"final"}','2ec153cc13b927052dfd147190b38c94b576b6cffe200736e8dfcba0777e8f87');
INSERT INTO "events" VALUES(32,'run-1',31,115.0,'step','[1,"train",0]','{"attempt":0,"deadline_s":60.0,"eligible":["a","b"],"ended_s":1.5,"extended":false,"frozen":["t1a","t1b"],"invited":["a","b"],"kind":"train","quorum_s":null,"reason":"","round_id":1,"rule":"all","run_id":"run-1","started_s":1.0,"status":"done"}','b6e26ffca4aa7b7b2821f88136ce4ef81ffb0daaa6d020c2d6d94d9182a14016');
INSERT INTO "events" VALUES(33,'run-1',32,115.0,'round','1','{"base_model_id":"initial","ended_s":1.5,"model_id":"g1","reason":"","round_id":1,"run_id":"run-1","started_s":1.0,"status":"done"}','5408de22f6d8dd87876942037c7c1c6044c45c79229ce542e4e0e0d72f78ff28');
INSERT INTO "events" VALUES(34,'run-1',33,115.0,'run','run-1','{"best_model_id":null,"best_round":0,"best_value":null,"failed_rounds":0,"kind":null,"model_id":"g1","name":"hearts","phase":"waiting","reason":"","round_id":1,"rounds_done":1,"run_id":"run-1","run_time_s":1.5,"settings":"sha256:3ec84e3b60a833200ffbeec2c7ba6a952a21185a7c701316af1858f4007d1377","settings_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","state_ids":{},"statistics_id":null,"status":"running"}','defaa895d295f97418420e9fd565a53c3768a1bef4a25a615d80e5bcc8c7ce62');
INSERT INTO "events" VALUES(35,'run-1',34,116.0,'task','t1c','{"agent_id":"c","assigned_s":1.0,"kind":"train","model_id":"initial","model_round":0,"reason":"","round_id":1,"run_id":"run-1","seed":9223372036854775807,"status":"late","task_id":"t1c","version":0}','81370025dc1c32952229102338838647e3e4e7ed3fed70176ec71a28217ddf75');
INSERT INTO "events" VALUES(36,'run-1',35,120.0,'round','2','{"base_model_id":"g1","ended_s":null,"model_id":null,"reason":"","round_id":2,"run_id":"run-1","started_s":2.0,"status":"open"}','061a28a7f0fe40d02e1cd87a87b56333d1391ab9612f9a4bade9ffebea30ee50');
INSERT INTO "events" VALUES(37,'run-1',36,120.0,'step','[2,"train",0]','{"attempt":0,"deadline_s":60.0,"eligible":["a","b"],"ended_s":null,"extended":false,"frozen":[],"invited":["a","b"],"kind":"train","quorum_s":null,"reason":"","round_id":2,"rule":"all","run_id":"run-1","started_s":2.0,"status":"open"}','d97e20f87b8d09a8b4abc4e5464e9ff02c9243244f855b567c0b6e68b207d21a');
INSERT INTO "events" VALUES(38,'run-1',37,120.0,'task','t2a','{"agent_id":"a","assigned_s":2.0,"kind":"train","model_id":"g1","model_round":0,"reason":"","round_id":2,"run_id":"run-1","seed":9223372036854775807,"status":"open","task_id":"t2a","version":0}','1ee06e370f62ad3a9f87c410471ff4781f3b8cfcd87e9166e190a90ae9feb71b');
INSERT INTO "events" VALUES(39,'run-1',38,120.0,'task','t2b','{"agent_id":"b","assigned_s":2.0,"kind":"train","model_id":"g1","model_round":0,"reason":"","round_id":2,"run_id":"run-1","seed":9223372036854775807,"status":"open","task_id":"t2b","version":0}','cf78b90bd93b2cdd3c77b371e4227bfe623dbfb547f7ed0272caa8258fbbb5ab');
INSERT INTO "events" VALUES(40,'run-1',39,120.0,'run','run-1','{"best_model_id":null,"best_round":0,"best_value":null,"failed_rounds":0,"kind":"train","model_id":"g1","name":"hearts","phase":"collecting","reason":"","round_id":2,"rounds_done":0,"run_id":"run-1","run_time_s":0.0,"settings":"sha256:3ec84e3b60a833200ffbeec2c7ba6a952a21185a7c701316af1858f4007d1377","settings_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","state_ids":{},"statistics_id":null,"status":"running"}','02622403ab3e756c4cb47412942a3955d676d30ad9cdddc07e9f185f1e032404');
INSERT INTO "events" VALUES(41,'run-1',40,121.0,'model','m2a','{"agent_id":"a","channel":"weights","digest":"sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a","form":"full","is_stored":true,"kind":"local","layout_digest":"sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45","model_id":"m2a","not_stored_reason":"","parents":[],"round_id":2,"run_id":"run-1","size":60}','f00492c07065881ad0e5056055cde0dc051487e58bc5ae85026bf1c35bad5338');
INSERT INTO "events" VALUES(42,'run-1',41,121.0,'update','["t2a","a",{"weights":"sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a"}]','{"agent_id":"a","counted_in":null,"digests":{"weights":"sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a"},"kind":"train","metrics":{"loss":0.25},"model_id":"m2a","num_examples":10,"num_steps":null,"reason":"","round_id":2,"run_id":"run-1","seconds":0.0,"share":null,"size":60,"staleness":null,"task_id":"t2a","verdict":"accepted","version":0}','72add26e9e101078d473d97dce878edd2e0927b710dfb4f3e7a3e99245aeb024');
INSERT INTO "events" VALUES(43,'run-1',42,121.0,'task','t2a','{"agent_id":"a","assigned_s":2.0,"kind":"train","model_id":null,"model_round":0,"reason":"","round_id":2,"run_id":"run-1","seed":9223372036854775807,"status":"answered","task_id":"t2a","version":0}','6208a51fa8f919e94ff8e6c97cb7b18d4649899c57628081df29e32ba6882c1a');
INSERT INTO "events" VALUES(44,'run-1',43,121.0,'metric','[2,"m2a","train","a","loss"]','{"agent_id":"a","agents":1,"model_id":"m2a","name":"loss","num_examples":20,"round_id":2,"run_id":"run-1","source":"train","value":2.0}','9ba7f4df244a7506ce89ad78c020073294bba3f36a62283951bd8a242149c152');
INSERT INTO "events" VALUES(45,'run-1',44,121.0,'event','','{"actor":"","agent_id":"a","details":{},"kind":"update_accepted","round_id":2}','5246c8cdc18c6e8f317c1ef25d96128ebdf5e19fe81d0a156765d4c03e3ec569');
CREATE TABLE files (
	digest TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	layout_digest TEXT NOT NULL, 
	is_stored INTEGER NOT NULL, 
	PRIMARY KEY (digest), 
	CHECK (size >= 0), 
	CHECK (is_stored IN (0, 1)), 
	FOREIGN KEY(layout_digest) REFERENCES layouts (digest) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "files" VALUES('sha256:70ee5ff931d21907a66e2c9b5b8950c7bf7761f44993c2810e6c7bac34e8fb25',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1);
INSERT INTO "files" VALUES('sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1);
INSERT INTO "files" VALUES('sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1);
INSERT INTO "files" VALUES('sha256:0dc2f6c9bf22989c9c634102fff3908053fc873e8c033c07d5b220651f677c69',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1);
INSERT INTO "files" VALUES('sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1);
CREATE TABLE layouts (
	digest TEXT NOT NULL, 
	arrays TEXT NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "layouts" VALUES('sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45','[["bias","F64",[3],"parameter"],["layer/w","F32",[3,3],"parameter"]]');
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('digest_algorithm','sha256');
INSERT INTO "meta" VALUES('made_by','fl_main 0.1.0');
INSERT INTO "meta" VALUES('created_at','90.0');
CREATE TABLE metrics (
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	model_id TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	source TEXT NOT NULL, 
	name TEXT NOT NULL, 
	value FLOAT, 
	num_examples INTEGER NOT NULL, 
	agents INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	UNIQUE (run_id, round_id, model_id, source, agent_id, name), 
	CHECK (source IN ('train', 'evaluate')), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "metrics" VALUES('run-1',1,'m1a','a','train','loss',1.0,20,1,111.0,111.0);
INSERT INTO "metrics" VALUES('run-1',1,'m1b','b','train','loss',1.5,20,1,111.0,111.0);
INSERT INTO "metrics" VALUES('run-1',1,'g1','','train','loss',0.5,20,2,115.0,115.0);
INSERT INTO "metrics" VALUES('run-1',1,'g1','','evaluate','accuracy',0.5,20,2,115.0,115.0);
INSERT INTO "metrics" VALUES('run-1',2,'m2a','a','train','loss',2.0,20,1,121.0,121.0);
CREATE TABLE migrations (
	version INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	applied_at FLOAT NOT NULL, 
	applied_by TEXT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "migrations" VALUES(1,'first schema',90.0,'0.1.0');
CREATE TABLE models (
	model_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	agent_id TEXT, 
	channel TEXT NOT NULL, 
	form TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	layout_digest TEXT NOT NULL, 
	is_stored INTEGER NOT NULL, 
	not_stored_reason TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	PRIMARY KEY (model_id), 
	CHECK (kind IN ('initial', 'global', 'local', 'statistics', 'state', 'channel')), 
	CHECK (size >= 0), 
	CHECK (form IN ('full')), 
	CHECK (is_stored IN (0, 1)), 
	CHECK (is_stored = (not_stored_reason = '')), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(digest) REFERENCES files (digest) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(layout_digest) REFERENCES layouts (digest) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "models" VALUES('initial','run-1',0,'initial',NULL,'weights','full','sha256:70ee5ff931d21907a66e2c9b5b8950c7bf7761f44993c2810e6c7bac34e8fb25',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1,'',102.0,102.0);
INSERT INTO "models" VALUES('m1a','run-1',1,'local','a','weights','full','sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1,'',111.0,111.0);
INSERT INTO "models" VALUES('m1b','run-1',1,'local','b','weights','full','sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1,'',111.0,111.0);
INSERT INTO "models" VALUES('g1','run-1',1,'global',NULL,'weights','full','sha256:0dc2f6c9bf22989c9c634102fff3908053fc873e8c033c07d5b220651f677c69',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1,'',115.0,115.0);
INSERT INTO "models" VALUES('m2a','run-1',2,'local','a','weights','full','sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a',60,'sha256:e9b54dbd64a8b94d7a9153ba6fc145fde989c8049624503d5f6e646d21da8a45',1,'',121.0,121.0);
CREATE TABLE parents (
	model_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	parent_id TEXT NOT NULL, 
	share FLOAT, 
	UNIQUE (model_id, position), 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(parent_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "parents" VALUES('g1',0,'m1a',0.5);
INSERT INTO "parents" VALUES('g1',1,'m1b',0.5);
CREATE TABLE rounds (
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	base_model_id TEXT, 
	model_id TEXT, 
	started_s FLOAT NOT NULL, 
	ended_s FLOAT, 
	reason TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	UNIQUE (run_id, round_id), 
	CHECK (status IN ('open', 'done', 'failed')), 
	CHECK (round_id >= 0 AND started_s >= 0), 
	CHECK (ended_s >= started_s), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(base_model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "rounds" VALUES('run-1',0,'done',NULL,'initial',0.0,NULL,'',102.0,102.0);
INSERT INTO "rounds" VALUES('run-1',1,'done','initial','g1',1.0,1.5,'',110.0,115.0);
INSERT INTO "rounds" VALUES('run-1',2,'open','g1',NULL,2.0,NULL,'',120.0,120.0);
CREATE TABLE runs (
	run_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	settings TEXT NOT NULL, 
	settings_digest TEXT NOT NULL, 
	status TEXT NOT NULL, 
	phase TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	kind TEXT, 
	model_id TEXT, 
	statistics_id TEXT, 
	state_ids TEXT NOT NULL, 
	best_model_id TEXT, 
	best_value FLOAT, 
	best_round INTEGER NOT NULL, 
	rounds_done INTEGER NOT NULL, 
	failed_rounds INTEGER NOT NULL, 
	run_time_s FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	PRIMARY KEY (run_id), 
	CHECK (status IN ('running', 'paused', 'finished', 'stopped', 'failed')), 
	CHECK (phase IN ('waiting', 'collecting', 'aggregating', 'ended')), 
	CHECK (kind IS NULL OR kind IN ('initialise', 'statistics', 'train', 'evaluate')), 
	CHECK (round_id >= 0 AND best_round >= 0 AND rounds_done >= 0 AND failed_rounds >= 0 AND run_time_s >= 0), 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(statistics_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(best_model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "runs" VALUES('run-1','hearts','{"name":"hearts","round":{"deadline_s":1.5}}','sha256:0000000000000000000000000000000000000000000000000000000000000000','running','collecting',2,'train','g1',NULL,'{}',NULL,NULL,0,0,0,0.0,'',100.0,120.0);
CREATE TABLE steps (
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	status TEXT NOT NULL, 
	eligible TEXT NOT NULL, 
	invited TEXT NOT NULL, 
	rule TEXT NOT NULL, 
	started_s FLOAT NOT NULL, 
	deadline_s FLOAT NOT NULL, 
	extended INTEGER NOT NULL, 
	quorum_s FLOAT, 
	frozen TEXT NOT NULL, 
	ended_s FLOAT, 
	reason TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	UNIQUE (run_id, round_id, kind, attempt), 
	CHECK (kind IN ('initialise', 'statistics', 'train', 'evaluate')), 
	CHECK (round_id >= 0 AND attempt >= 0 AND started_s >= 0), 
	CHECK (extended IN (0, 1)), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "steps" VALUES('run-1',1,'train',0,'done','["a","b"]','["a","b"]','all',1.0,60.0,0,NULL,'["t1a","t1b"]',1.5,'',110.0,115.0);
INSERT INTO "steps" VALUES('run-1',2,'train',0,'open','["a","b"]','["a","b"]','all',2.0,60.0,0,NULL,'[]',NULL,'',120.0,120.0);
CREATE TABLE tags (
	run_id TEXT NOT NULL, 
	tag TEXT NOT NULL, 
	model_id TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	UNIQUE (run_id, tag), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "tags" VALUES('run-1','final','g1',115.0,115.0);
CREATE TABLE tasks (
	task_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	model_id TEXT, 
	model_round INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	seed INTEGER NOT NULL, 
	assigned_s FLOAT NOT NULL, 
	reason TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	PRIMARY KEY (task_id), 
	CHECK (kind IN ('initialise', 'statistics', 'train', 'evaluate')), 
	CHECK (status IN ('open', 'late', 'answered', 'declined', 'failed', 'cancelled')), 
	CHECK (round_id >= 0 AND version >= 0 AND assigned_s >= 0), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "tasks" VALUES('t1a','run-1',1,'train','a','answered',NULL,0,0,9223372036854775807,1.0,'',110.0,111.0);
INSERT INTO "tasks" VALUES('t1b','run-1',1,'train','b','answered',NULL,0,0,9223372036854775807,1.0,'',110.0,111.0);
INSERT INTO "tasks" VALUES('t1c','run-1',1,'train','c','late','initial',0,0,9223372036854775807,1.0,'',110.0,116.0);
INSERT INTO "tasks" VALUES('t2a','run-1',2,'train','a','answered',NULL,0,0,9223372036854775807,2.0,'',120.0,121.0);
INSERT INTO "tasks" VALUES('t2b','run-1',2,'train','b','open','g1',0,0,9223372036854775807,2.0,'',120.0,120.0);
CREATE TABLE updates (
	update_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	task_id TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	round_id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	agent_id TEXT NOT NULL, 
	verdict TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	num_examples INTEGER NOT NULL, 
	num_steps INTEGER, 
	metrics TEXT NOT NULL, 
	digests TEXT NOT NULL, 
	model_id TEXT, 
	version INTEGER NOT NULL, 
	counted_in INTEGER, 
	staleness INTEGER, 
	share FLOAT, 
	size INTEGER NOT NULL, 
	seconds FLOAT NOT NULL, 
	received_at FLOAT NOT NULL, 
	changed_at FLOAT NOT NULL, 
	UNIQUE (task_id, agent_id, digests), 
	CHECK (kind IN ('initialise', 'statistics', 'train', 'evaluate')), 
	CHECK (verdict IN ('accepted', 'rejected', 'discarded')), 
	CHECK (round_id >= -1), 
	CHECK (verdict <> 'accepted' OR kind <> 'train' OR num_examples > 0), 
	CHECK (counted_in IS NULL OR verdict = 'accepted'), 
	CHECK (staleness >= 0), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id) DEFERRABLE INITIALLY DEFERRED, 
	FOREIGN KEY(model_id) REFERENCES models (model_id) DEFERRABLE INITIALLY DEFERRED
);
INSERT INTO "updates" VALUES(1,'t1a','run-1',1,'train','a','accepted','',10,NULL,'{"loss":0.25}','{"weights":"sha256:3ce7224b51fdede5a58af2728a39b31dc6bc722d30c9818ad73bcf96eca355cc"}','m1a',0,1,0,0.5,60,0.0,111.0,115.0);
INSERT INTO "updates" VALUES(2,'t1b','run-1',1,'train','b','accepted','',10,NULL,'{"loss":0.25}','{"weights":"sha256:1ece5861fd2918453761b43765b1766859db526831a0174bebe152aad6a95a3f"}','m1b',0,1,0,0.5,60,0.0,111.0,115.0);
INSERT INTO "updates" VALUES(5,'t2a','run-1',2,'train','a','accepted','',10,NULL,'{"loss":0.25}','{"weights":"sha256:91d074274d424f74db7e6b2f2b3294a54dc342e620a57004af20e3ce3abd236a"}','m2a',0,NULL,NULL,NULL,60,0.0,121.0,121.0);
CREATE INDEX ix_runs_name ON runs (name);
CREATE INDEX tasks_by_round ON tasks (run_id, round_id);
CREATE INDEX tasks_unanswered ON tasks (run_id) WHERE status IN ('open', 'late');
CREATE UNIQUE INDEX updates_accepted_once ON updates (task_id) WHERE verdict = 'accepted';
CREATE INDEX updates_by_round ON updates (run_id, round_id);
CREATE INDEX updates_uncounted ON updates (run_id) WHERE verdict = 'accepted' AND counted_in IS NULL;
CREATE INDEX models_by_digest ON models (digest);
CREATE INDEX models_by_layout ON models (layout_digest);
CREATE INDEX models_by_round ON models (run_id, round_id);
CREATE INDEX ix_parents_parent_id ON parents (parent_id);
CREATE INDEX ix_tags_model_id ON tags (model_id);
CREATE INDEX ix_metrics_model_id ON metrics (model_id);
CREATE INDEX events_only ON events (run_id, seq) WHERE record = 'event';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('updates',5);
COMMIT;
